# SPDX-License-Identifier: Apache-2.0
"""Serial port (Arm PrimeCell UART, PL011) for vmm. `plugin` is the front's half, `device` the runner's."""
