# SPDX-License-Identifier: Apache-2.0
"""The runner's half of the serial port: which C device it is; all else is :class:`vmmcore.cdevice.SerialPort`'s."""

from __future__ import annotations

from vmmcore.cdevice import SerialPort

from . import _native


class Serial(SerialPort):
    """A 16550A at ``resources["port"]`` with interrupt ``resources["gsi"]``."""

    native = _native
    prefix, state_type = "serial", "struct uart16550_state"
    registers = ("ier", "fcr", "lcr", "mcr", "scr", "dll", "dlm", "lsr_errors", "msr_deltas", "thre_pending")
