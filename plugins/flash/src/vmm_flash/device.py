# SPDX-License-Identifier: Apache-2.0
"""The runner's half of the flash: a thin handle on two banks in C."""

from __future__ import annotations

import os

from vmmcore.device import Device
from vmmcore.errors import VmmError

from ._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BANKS = ("code", "vars")


class Flash(Device):
    """Two banks: ``code``, which nothing changes, and ``vars``, of which the guest may write every bit.

    ``resources``: for each its [address, bytes]. ``files``: what is in them; that of ``vars`` is changed.
    """

    def realize(self) -> None:
        self._banks: dict[str, Any] = {}
        error = ffi.new("int *")
        core = ffi.cast("void *", self.machine.api_address), ffi.cast("void *", self.machine.vm_address)
        for name in BANKS:
            address, size = self.resources[name]
            fd = self.files.pop(name)
            backed = min(os.fstat(fd).st_size, size)
            bank = lib.flash_new(*core, address, size, fd, backed, name == "vars", error)
            if not bank:
                raise VmmError(f"{self.id}: cannot create the flash for {name}: {os.strerror(-error[0])}")
            self._banks[name] = bank

    def reset(self) -> None:
        for bank in self._banks.values():
            lib.flash_reset(bank)

    def remove(self) -> None:
        for fd in self.files.values():
            os.close(fd)
        while self._banks:
            lib.flash_free(self._banks.popitem()[1])

    def save(self) -> dict[str, Any]:
        """Modes, status and locks. The contents are in the files."""
        state = ffi.new("struct nor_state *")
        saved = {}
        for name, bank in self._banks.items():
            lib.flash_save(bank, state)
            saved[name] = bytes(ffi.buffer(state))
        return saved

    def restore(self, state: dict[str, Any]) -> None:
        """Raises VmmError for a state that no flash can be in."""
        made = ffi.new("struct nor_state *")
        for name, bank in self._banks.items():
            data = state.get(name)
            if not isinstance(data, bytes) or len(data) != ffi.sizeof("struct nor_state"):
                raise VmmError(f"{self.id}: saved state is not usable: no registers of {name}")
            ffi.buffer(made)[:] = data
            if lib.flash_restore(bank, made):
                raise VmmError(f"{self.id}: saved state is not usable: impossible register values")

    def counters(self) -> dict[str, int]:
        counters = ffi.new("struct flash_counters *")
        lib.flash_read_counters(self._banks["vars"], counters)
        return {name: getattr(counters, name) for name in ("programs", "erases", "syncs")}
