# SPDX-License-Identifier: Apache-2.0
"""The runner's half of the serial port: which C device it is; all else is :class:`vmmcore.cdevice.SerialPort`'s."""

from __future__ import annotations

from vmmcore.cdevice import SerialPort

from . import _native


class Pl011(SerialPort):
    """A PL011 at ``resources["address"]`` with interrupt ``resources["gsi"]``."""

    native = _native
    prefix, state_type = "pl011", "struct pl011_state"
    registers = ("ilpr", "ibrd", "fbrd", "lcr_h", "cr", "ifls", "imsc", "ris", "dmacr", "rsr", "overrun")
