# SPDX-License-Identifier: Apache-2.0
from typing import Any, Protocol

class _Lib(Protocol):
    def echo_new(self, api: Any, vm: Any, id: bytes, /) -> Any: ...
    def echo_start(self, echo: Any, queue: Any, /) -> int: ...
    def echo_free(self, echo: Any, /) -> None: ...

ffi: Any
lib: _Lib
