# SPDX-License-Identifier: Apache-2.0
"""Tables that Arm machines need besides MADT and MCFG: GTDT, SPCR, PPTT (ACPI 6.5 §5.2.25, §5.2.30)."""

from __future__ import annotations

from .tables import HEADER_SIZE, packed, sdt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tables import Ids

# Timer flags (ACPI 6.5 table 5.117)
TIMER_EDGE, TIMER_ACTIVE_LOW, TIMER_ALWAYS_ON = 1, 2, 4
NO_COUNTER_FRAME = 0xFFFF_FFFF_FFFF_FFFF

# SPCR interface types (DBG2 table 3) and interrupt types
SPCR_16550, SPCR_PL011 = 0, 3
SPCR_IRQ_8259, SPCR_IRQ_IOAPIC, SPCR_IRQ_GIC = 1, 2, 8
SPCR_BAUD_AS_IS, SPCR_BAUD_115200 = 0, 7

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


def pptt(packages: int, clusters: int, cores: int, threads: int, ids: Ids, *, first_uid: int = 0) -> bytes:
    """Processor Properties Topology Table, revision 2, of a regular tree (ACPI 6.5 §5.2.30).

    Each package has `clusters` clusters of `cores` cores of `threads` threads; 1 cluster or thread makes
    no level of its own.  The leaves take processor UIDs in order from `first_uid`.
    """
    if min(packages, clusters, cores, threads) < 1:
        raise ValueError(
            f"ACPI PPTT: {packages}x{clusters}x{cores}x{threads} is not a topology; all from 1 up"
        )
    body = bytearray()
    leaf_flags = PPTT_ID_VALID | PPTT_LEAF
    uid = first_uid

    def node(flags: int, parent: int, number: int) -> int:
        place = HEADER_SIZE + len(body)
        body.extend(packed("PPTT", "BBHIIII", 0, _PPTT_NODE_SIZE, 0, flags, parent, number, 0))
        return place

    for _ in range(packages):
        package = node(PPTT_PACKAGE | PPTT_IDENTICAL, 0, 0)
        for _ in range(clusters):
            cluster = node(PPTT_IDENTICAL, package, 0) if clusters > 1 else package
            for _ in range(cores):
                if threads == 1:
                    node(leaf_flags, cluster, uid)
                    uid += 1
                    continue
                core = node(PPTT_IDENTICAL, cluster, 0)
                for _ in range(threads):
                    node(leaf_flags | PPTT_THREAD, core, uid)
                    uid += 1
    return sdt(b"PPTT", 2, bytes(body), ids)
