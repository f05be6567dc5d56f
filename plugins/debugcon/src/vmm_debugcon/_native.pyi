# SPDX-License-Identifier: Apache-2.0
from typing import Any, Protocol

class _Lib(Protocol):
    DEBUGCON_STAMPS: int
    VMM_CHARDEV_RAW: int
    VMM_CHARDEV_ESCAPE: int

    def debugcon_new(self, api: Any, vm: Any, ports: Any, in_fd: int, out_fd: int, flags: int,
                     error: Any, /) -> Any: ...
    def debugcon_free(self, debugcon: Any, /) -> None: ...
    def debugcon_reset(self, debugcon: Any, /) -> None: ...
    def debugcon_stamps(self, debugcon: Any, stamps: Any, /) -> int: ...
    def debugcon_read_counters(self, debugcon: Any, counters: Any, /) -> None: ...

ffi: Any
lib: _Lib
