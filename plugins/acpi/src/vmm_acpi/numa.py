# SPDX-License-Identifier: Apache-2.0
"""NUMA tables: SRAT and SLIT (ACPI 6.5 §5.2.16, §5.2.17)."""

from __future__ import annotations

from .tables import packed, sdt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from .spec import Range
    from .tables import Ids

ENABLED = 1
HOT_PLUGGABLE = 2  # memory affinity flags (ACPI 6.5 table 5.61)
NON_VOLATILE = 4


def srat(structures: Iterable[bytes], ids: Ids) -> bytes:
    """System Resource Affinity Table, revision 3 (ACPI 6.5 §5.2.16)."""
    return sdt(b"SRAT", 3, packed("SRAT", "IQ", 1, 0) + b"".join(structures), ids)


def apic_affinity(node: int, apic_id: int, flags: int = ENABLED) -> bytes:
    """Proximity domain of a processor with an 8-bit APIC id (ACPI 6.5 §5.2.16.1)."""
    low, high = node & 0xFF, node >> 8
    return packed("APIC affinity", "BBBBIBBHI", 0, 16, low, apic_id, flags, 0, high & 0xFF, high >> 8, 0)


def memory_affinity(node: int, base: int, size: int, flags: int = ENABLED) -> bytes:
    """Proximity domain of `size` bytes of memory at `base` (ACPI 6.5 §5.2.16.2)."""
    return packed("memory affinity", "BBIHQQIIQ", 1, 40, node, 0, base, size, 0, flags, 0)


def x2apic_affinity(node: int, apic_id: int, flags: int = ENABLED) -> bytes:
    """Proximity domain of a processor with a 32-bit APIC id (ACPI 6.5 §5.2.16.3)."""
    return packed("x2APIC affinity", "BBHIIIII", 2, 24, 0, node, apic_id, flags, 0, 0)


def gicc_affinity(node: int, uid: int, flags: int = ENABLED) -> bytes:
    """Proximity domain of an Arm processor (ACPI 6.5 §5.2.16.4)."""
    return packed("GICC affinity", "BBIIII", 3, 18, node, uid, flags, 0)


def slit(matrix: Sequence[Sequence[int]], ids: Ids) -> bytes:
    """System Locality Information Table: relative distances, 10 on the diagonal (ACPI 6.5 §5.2.17).

    Raises ValueError unless the matrix is square with a diagonal of 10 and 10 to 255 (no way) elsewhere.
    """
    size = len(matrix)
    for i, row in enumerate(matrix):
        if len(row) != size or row[i] != 10 or not all(10 <= distance <= 255 for distance in row):
            raise ValueError(f"NUMA distances, row {i}: needs {size} values of 10..255 with 10 in column {i}")
    return sdt(b"SLIT", 1, packed("SLIT", "Q", size) + b"".join([bytes(row) for row in matrix]), ids)


def describe(
    spec: dict[str, Any],
    nodes: Mapping[str, Mapping[int | str, int]],
    zones: Mapping[str, Sequence[Sequence[int]]],
    hotplug: Mapping[str, Range],
    distances: Sequence[Sequence[int]],
) -> None:
    """Put nodes into the description of a machine, whose tables then have a SRAT and a SLIT.

    nodes      "cpus", "memory_zones" and "pci_segments": which node each is in
    zones      (address, bytes) of the pieces that each memory zone has
    hotplug    of a zone: (address, bytes) for what comes later
    distances  the SLIT's matrix
    """
    for index, cpu in enumerate(spec["cpus"]):
        cpu["node"] = nodes["cpus"][index]
    for segment in spec["segments"]:
        if segment["id"] in nodes["pci_segments"]:
            segment["node"] = nodes["pci_segments"][segment["id"]]
    pieces = [(zone, base, size, False) for zone, places in zones.items() for base, size in places]
    pieces += [(zone, base, size, True) for zone, (base, size) in hotplug.items()]
    spec["memory"] = [
        {"base": base, "size": size, "node": nodes["memory_zones"][zone], "hotplug": later}
        for zone, base, size, later in pieces
    ]
    spec["distances"] = distances
