# SPDX-License-Identifier: Apache-2.0
"""The runner's half of the clock: which C device it is; all else is :class:`vmmcore.cdevice.CDevice`'s."""

from __future__ import annotations

from vmmcore.cdevice import CDevice

from . import _native


class Pl031(CDevice):
    """A PL031 at ``resources["address"]`` with interrupt ``resources["gsi"]``."""

    native = _native
    prefix, state_type = "pl031", "struct pl031_state"
    registers = ("offset", "mr", "lr", "imsc", "ris", "match_at")
