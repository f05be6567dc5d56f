# SPDX-License-Identifier: Apache-2.0
from typing import Any

#: as :class:`vmmcore.cdevice.CDevice` uses it
ffi: Any
lib: Any
