# SPDX-License-Identifier: Apache-2.0
"""The educational PCI device for vmm: `plugin` is the front's half, `device` the runner's."""
