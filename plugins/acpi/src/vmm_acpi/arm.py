# SPDX-License-Identifier: Apache-2.0
"""Tables that Arm machines need besides MADT and MCFG: GTDT, SPCR, DBG2, IORT, PPTT.

ACPI 6.5 §5.2.25, §5.2.30; Microsoft SPCR 1.03 and DBG2 1.0; Arm IORT, DEN 0049E.b.
"""

from __future__ import annotations

from .tables import HEADER_SIZE, packed, sdt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from .tables import Ids

    Node: TypeAlias = tuple[int, int, int]  # place of the parent or -1, PPTT flags, _UID

# Timer flags (ACPI 6.5 table 5.117)
TIMER_EDGE, TIMER_ACTIVE_LOW, TIMER_ALWAYS_ON = 1, 2, 4
NO_COUNTER_FRAME = 0xFFFF_FFFF_FFFF_FFFF

# SPCR interface types (DBG2 table 3) and interrupt types
SPCR_16550, SPCR_PL011 = 0, 3
SPCR_IRQ_8259, SPCR_IRQ_IOAPIC, SPCR_IRQ_GIC = 1, 2, 8
SPCR_BAUD_AS_IS, SPCR_BAUD_115200 = 0, 7

DBG2_SERIAL = 0x8000  # port type; the subtypes are the SPCR's interface types
_DBG2_DEVICE_SIZE = 22

# IORT node types
IORT_ITS_GROUP, IORT_ROOT_COMPLEX = 0, 2
_IORT_FIRST_NODE, _IORT_NODE_HEAD, _IORT_ROOT_COMPLEX_DATA = HEADER_SIZE + 12, 16, 20
_IORT_COHERENT, _IORT_PATH_AND_ATTRIBUTES = 1, 3  # CCA; CPM and DACS, as IORT wants where CCA is 1

# Processor node flags (ACPI 6.5 table 5.157)
PPTT_PACKAGE, PPTT_ID_VALID, PPTT_THREAD, PPTT_LEAF, PPTT_IDENTICAL = 1, 2, 4, 8, 16
_PPTT_NODE_SIZE = 20


def gtdt(
    secure_el1: int,
    non_secure_el1: int,
    virtual: int,
    non_secure_el2: int,
    ids: Ids,
    *,
    virtual_el2: int = 0,
    flags: int = TIMER_ALWAYS_ON,
) -> bytes:
    """Generic Timer Description Table, revision 3, without memory-mapped timers (ACPI 6.5 §5.2.25).

    The interrupts are GSIVs: PPI n is 16 + n.  `flags` applies to each; 0 flags are level, active high.
    """
    body = packed("GTDT", "QI", NO_COUNTER_FRAME, 0)
    for gsiv in (secure_el1, non_secure_el1, virtual, non_secure_el2):
        body += packed("GTDT", "II", gsiv, flags)
    body += packed("GTDT", "QIIII", NO_COUNTER_FRAME, 0, 0, virtual_el2, flags if virtual_el2 else 0)
    return sdt(b"GTDT", 3, body, ids)


def spcr(
    register: bytes,
    gsiv: int,
    ids: Ids,
    *,
    interface: int = SPCR_PL011,
    interrupt_type: int = SPCR_IRQ_GIC,
    baud: int = SPCR_BAUD_AS_IS,
    irq: int = 0,
) -> bytes:
    """Serial Port Console Redirection table, revision 2, for a port that is no PCI device.

    Microsoft SPCR 1.03, table 1.  `register` is a `gas()`; the line is 8n1 with a VT100 behind it.
    """
    body = packed("SPCR", "B3s12sBBIB", interface, bytes(3), register, interrupt_type, irq, gsiv, baud)
    body += packed("SPCR", "BBBBB", 0, 1, 0, 0, 0)  # parity, stop bits, flow control, terminal, reserved
    body += packed("SPCR", "HHBBBIBI", 0xFFFF, 0xFFFF, 0, 0, 0, 0, 0, 0)
    return sdt(b"SPCR", 2, body, ids)


def dbg2(register: bytes, size: int, path: str, ids: Ids, *, interface: int = SPCR_PL011) -> bytes:
    """Debug Port Table 2, revision 0, of one serial port, the device `path` (Microsoft DBG2, tables 1-3)."""
    name = path.encode("ascii") + b"\0"
    registers_at = _DBG2_DEVICE_SIZE
    size_at = registers_at + len(register)
    name_at = size_at + 4
    body = packed("DBG2", "II", HEADER_SIZE + 8, 1)
    body += packed("DBG2", "BHBHHHH", 0, name_at + len(name), 1, len(name), name_at, 0, 0)
    body += packed("DBG2", "HHHHH", DBG2_SERIAL, interface, 0, registers_at, size_at)
    return sdt(b"DBG2", 0, body + register + packed("DBG2", "I", size) + name, ids)


def iort(its_id: int, complexes: Sequence[tuple[int, int, int, int]], ids: Ids) -> bytes:
    """I/O Remapping Table, revision 3: root complexes whose MSIs go to one ITS (Arm DEN 0049E.b §3).

    A complex is `(segment, first requester id, number of ids, DeviceID of the first)`; memory accesses
    are coherent and reach 64 bits of address.
    """
    body = packed("IORT", "III", 1 + len(complexes), _IORT_FIRST_NODE, 0)
    body += packed("IORT ITS group", "BHBIII", IORT_ITS_GROUP, _IORT_NODE_HEAD + 8, 1, 0, 0, 0)
    body += packed("IORT ITS group", "II", 1, its_id)
    mapping_at = _IORT_NODE_HEAD + _IORT_ROOT_COMPLEX_DATA
    for number, (segment, first, count, device_id) in enumerate(complexes, 1):
        what = "IORT root complex"
        body += packed(what, "BHBIII", IORT_ROOT_COMPLEX, mapping_at + 20, 3, number, 1, mapping_at)
        body += packed(what, "IBHB", _IORT_COHERENT, 0, 0, _IORT_PATH_AND_ATTRIBUTES)
        body += packed(what, "IIB3s", 0, segment, 64, bytes(3))  # no ATS; address bits; reserved
        # The number of ids is given less one.
        body += packed(what, "IIIII", first, count - 1, device_id, _IORT_FIRST_NODE, 0)
    return sdt(b"IORT", 3, body, ids)


def processor_tree(packages: int, clusters: int, cores: int, threads: int, uids: Sequence[int]) -> list[Node]:
    """The nodes of a regular topology, each before what it contains.

    Each package has `clusters` clusters of `cores` cores of `threads` threads; 1 cluster or thread makes
    no level of its own.  The leaves take the processors' `uids` in order; inner nodes, the processor
    containers, are numbered from 0, packages first.  Raises ValueError unless `uids` fit the leaves.
    """
    text = f"{packages} packages of {clusters} clusters of {cores} cores of {threads} threads"
    if min(packages, clusters, cores, threads) < 1:
        raise ValueError(f"ACPI topology: {text}; all from 1 up")
    if packages * clusters * cores * threads != len(uids):
        raise ValueError(f"ACPI topology: {text} are not the machine's {len(uids)} CPUs")
    levels = [packages, *([clusters] if clusters > 1 else ()), cores, *([threads] if threads > 1 else ())]
    leaf_flags = PPTT_ID_VALID | PPTT_LEAF | (PPTT_THREAD if threads > 1 else 0)
    nodes: list[Node] = []
    rest = iter(uids)
    numbers = [0]  # the next container's, for each level
    size = 1
    for count in levels[:-2]:
        size *= count
        numbers.append(numbers[-1] + size)

    def grow(parent: int, depth: int) -> None:
        for _ in range(levels[depth]):
            place = len(nodes)
            if depth == len(levels) - 1:
                nodes.append((parent, leaf_flags, next(rest)))
                continue
            package = 0 if depth else PPTT_PACKAGE
            nodes.append((parent, package | PPTT_ID_VALID | PPTT_IDENTICAL, numbers[depth]))
            numbers[depth] += 1
            grow(place, depth + 1)

    grow(-1, 0)
    return nodes


def processor_paths(tree: Sequence[Node]) -> list[str]:
    r"""Absolute names of the processors' devices that `dsdt.processors` makes of the tree, in order."""
    alone = sum(parent == -1 for parent, _, _ in tree) == 1
    names: list[str] = []
    leaves: list[str] = []
    for place, (parent, flags, number) in enumerate(tree):
        above = names[parent] if parent >= 0 else "\\_SB.CPUS"
        if flags & PPTT_LEAF:
            leaves.append(f"{above}.C{len(leaves):03X}")
        names.append(above if alone and not place else f"{above}.P{number:03X}")
    return leaves


def pptt(tree: Sequence[Node], ids: Ids) -> bytes:
    """Processor Properties Topology Table, revision 3, of a `processor_tree` (ACPI 6.5 §5.2.30)."""
    body = b""
    for parent, flags, uid in tree:
        above = 0 if parent < 0 else HEADER_SIZE + parent * _PPTT_NODE_SIZE
        body += packed("PPTT", "BBHIIII", 0, _PPTT_NODE_SIZE, 0, flags, above, uid, 0)
    return sdt(b"PPTT", 3, body, ids)
