# SPDX-License-Identifier: Apache-2.0
"""The plugin's entry: recognises bzImage and ELF by their magic numbers, leaves the rest to `plan`."""

from __future__ import annotations

from vmmcore.hooks import BootClaim, hookimpl

API = (1, 0)


def is_ours(head: bytes) -> bool:
    """A bzImage's "HdrS" (boot protocol 2.00+) or the magic number of ELF."""
    return head[:4] == b"\x7fELF" or head[0x202:0x206] == b"HdrS"


@hookimpl
def vmm_boot_probe(path: str, head: bytes, size: int) -> BootClaim | None:
    """Claim `path`, or None for a file of another kind.

    Raises UserError for a bzImage or ELF file that no x86-64 machine can boot: truncated,
    lying headers, 32-bit, another architecture.
    """
    if not is_ours(head):
        return None
    from . import planning

    return planning.probe(path, head, size)
