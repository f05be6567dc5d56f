# SPDX-License-Identifier: Apache-2.0
"""The plugin's entry: recognises kernels by their magic numbers, leaves the rest to `plan`."""

from __future__ import annotations

from vmmcore.errors import UserError
from vmmcore.hooks import BootClaim, DeviceType, hookimpl

from .options import KEY, BootOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmmcore.front.planning import PlanContext

API = (1, 0)


def is_ours(head: bytes) -> bool:
    """A bzImage's "HdrS" (boot protocol 2.00+), ELF, arm64 Image, EFI zboot; or gzip, which may hold an Image."""
    return (head[:4] == b"\x7fELF" or head[0x202:0x206] == b"HdrS" or head[56:60] == b"ARM\x64"
            or head[:8] == b"MZ\0\0zimg" or head[:3] == b"\x1f\x8b\x08")


def _take_options(context: PlanContext, options: BootOptions, device: dict[str, Any]) -> bool:
    if KEY in context.layout.extra:
        raise UserError(f"--plugin {KEY}", "given more than once", "put all its options into one")
    context.layout.extra[KEY] = options
    return False


@hookimpl
def vmm_device_types() -> list[DeviceType]:
    """No device: the way to options for ``--plugin boot-linux,…``, kept until the kernel is planned."""
    return [DeviceType(KEY, "", options=BootOptions, plan=_take_options, bus="platform", many=False,
                       doc="how a Linux kernel is started")]


@hookimpl
def vmm_boot_probe(path: str, head: bytes, size: int) -> BootClaim | None:
    """Claim `path`, or None for a file of another kind.

    Raises UserError for a kernel of this machine's kind that cannot be booted: truncated, lying headers,
    32-bit. One of another architecture is claimed, and refused when it is planned.
    """
    if not is_ours(head):
        return None
    from . import planning

    return planning.probe(path, head, size)
