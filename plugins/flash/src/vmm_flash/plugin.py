# SPDX-License-Identifier: Apache-2.0
"""The front's half of the flash: which files are firmware, and what the plan and the device tree say about it."""

from __future__ import annotations

from vmmcore.hooks import BootClaim, hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmmcore.front.planning import PlanContext
    from vmmcore.hooks import Property

API = (1, 0)

#: guest-physical addresses of the two banks, and the most bytes that each has room for
CODE, VARS, ROOM = 0, 64 << 20, 64 << 20


def is_firmware(head: bytes) -> bool:
    """A UEFI firmware volume near the beginning (PI 1.8 volume 3 §3.2.1), as in all builds of EDK2 for flash."""
    at = head.find(b"_FVH")
    while at >= 0:
        if at >= 40 and (at - 40) % 8 == 0:
            return True
        at = head.find(b"_FVH", at + 1)
    return False


@hookimpl
def vmm_boot_probe(path: str, head: bytes, size: int) -> BootClaim | None:
    """Claim firmware. Nothing is said about its architecture: no header tells."""
    if not is_firmware(head):
        return None

    def plan(context: PlanContext) -> dict[str, object]:
        from .planning import plan

        return plan(context, path)

    return BootClaim(90, "UEFI firmware", plan)


@hookimpl
def vmm_fdt_nodes(context: PlanContext) -> Sequence[tuple[str, dict[str, Property]]]:
    """The kernel's binding ``mtd/mtd-physmap``; EDK2 looks for the same node."""
    nodes: list[tuple[str, dict[str, Property]]] = []
    for device in context.device_plan("flash"):
        banks = [device["resources"][name] for name in ("code", "vars")]
        reg = [cell for bank in banks for number in bank for cell in (number >> 32, number & 0xFFFFFFFF)]
        nodes.append((f"flash@{banks[0][0]:x}", {"compatible": "cfi-flash", "reg": reg, "bank-width": 4}))
    return nodes
