# SPDX-License-Identifier: Apache-2.0
"""NOR flash for firmware. `plugin` is the front's half, `device` the runner's."""
