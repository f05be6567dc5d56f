# SPDX-License-Identifier: Apache-2.0
"""The runner's half of fw_cfg: a thin handle on the C device."""

from __future__ import annotations

import os

from vmmcore.device import Device
from vmmcore.errors import VmmError

from ._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_STATE = ("key", "offset", "dma_high")
_COUNTERS = ("selects", "read_bytes", "dma_errors")


class FwCfg(Device):
    """fw_cfg at ``resources["address"]``, or at the I/O port ``resources["port"]``.

    Option ``items``: [{"key": a number, or "name": a file's; "data": bytes, or "file": a name in ``files`` and
    "size": bytes of it}].
    """

    def realize(self) -> None:
        error = ffi.new("int *")
        self._c = lib.fw_cfg_new(ffi.cast("void *", self.machine.api_address),
                                 ffi.cast("void *", self.machine.vm_address), error)
        if not self._c:
            raise self._failed(error[0])
        for item in self.options["items"]:
            name, data = item.get("name"), item.get("data")
            fd = self.files[item["file"]] if data is None else -1
            status = lib.fw_cfg_add(
                self._c, item.get("key", -1), ffi.NULL if name is None else name.encode(),
                ffi.NULL if data is None else ffi.from_buffer(data), fd,
                item["size"] if data is None else len(data))
            if status:
                raise self._failed(status)
        port = self.resources.get("port")
        status = lib.fw_cfg_start(self._c, lib.VMM_MMIO if port is None else lib.VMM_PIO,
                                  self.resources["address"] if port is None else port)
        if status:
            raise self._failed(status)

    def _failed(self, status: int) -> VmmError:
        return VmmError(f"{self.id}: cannot create the device: {os.strerror(-status)}")

    def reset(self) -> None:
        lib.fw_cfg_reset(self._c)

    def remove(self) -> None:
        device, self._c = self._c, ffi.NULL
        lib.fw_cfg_free(device)
        while self.files:
            os.close(self.files.popitem()[1])

    def save(self) -> dict[str, Any]:
        """Where the guest is reading. The items are in the plan."""
        state = ffi.new("struct fw_cfg_state *")
        lib.fw_cfg_save(self._c, state)
        return {name: getattr(state, name) for name in _STATE}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises VmmError for a state that the device cannot be in."""
        made = ffi.new("struct fw_cfg_state *")
        try:
            for name in _STATE:
                setattr(made, name, state[name])
        except (KeyError, TypeError, OverflowError) as error:
            raise VmmError(f"{self.id}: saved state is not usable: {error}") from None
        lib.fw_cfg_restore(self._c, made)

    def counters(self) -> dict[str, int]:
        counters = ffi.new("struct fw_cfg_counters *")
        lib.fw_cfg_read_counters(self._c, counters)
        return {name: getattr(counters, name) for name in _COUNTERS}
