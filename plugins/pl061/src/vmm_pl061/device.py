# SPDX-License-Identifier: Apache-2.0
"""The runner's half of the power button: which C device it is; all else is :class:`vmmcore.cdevice.CDevice`'s."""

from __future__ import annotations

from vmmcore.cdevice import CDevice

from . import _native


class Pl061(CDevice):
    """A PL061 at ``resources["address"]`` with interrupt ``resources["gsi"]``; line 3 is the power button."""

    native = _native
    prefix, state_type = "pl061", "struct pl061_state"
    registers = ("in", "out", "edges", "dir", "is", "ibe", "iev", "ie", "afsel")

    def power_button(self) -> None:
        """Press it; it is let go of when the guest has seen it, within a second."""
        self._call("press", self._c)
