# SPDX-License-Identifier: Apache-2.0
"""Power button (Arm PrimeCell GPIO, PL061) for vmm. `plugin` is the front's half, `device` the runner's."""
