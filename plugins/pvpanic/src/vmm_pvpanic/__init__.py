# SPDX-License-Identifier: Apache-2.0
"""pvpanic for vmm: `plugin` is the front's half, `device` the runner's."""
