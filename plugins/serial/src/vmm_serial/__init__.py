# SPDX-License-Identifier: Apache-2.0
"""Serial port (16550A) for vmm. `plugin` is the front's half, `device` the runner's."""
