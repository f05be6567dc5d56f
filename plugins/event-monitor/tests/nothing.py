# SPDX-License-Identifier: Apache-2.0
"""A PCI device that does nothing; in a file of its own, for the runner imports it."""

from __future__ import annotations

from vmmcore import PciDevice


class Nothing(PciDevice):
    """Only its place counts."""

    vendor_id, device_id = 0x1234, 0x0099
