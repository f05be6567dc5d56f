# SPDX-License-Identifier: Apache-2.0
"""Real-time clock (Arm PrimeCell RTC, PL031) for vmm. `plugin` is the front's half, `device` the runner's."""
