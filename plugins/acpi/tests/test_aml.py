# SPDX-License-Identifier: Apache-2.0
"""The encoder makes the bytes that iasl makes of the same text."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import Iasl

from vmm_acpi import aml as a
from vmm_acpi import resources as r


def in_method(text: str) -> str:
    return f"Method (M, 7, Serialized) {{ {text} }}"


def method(*body: bytes | int | str) -> bytes:
    return a.method("M", 7, *body, serialized=True)


DATA = {
    "integers": (
        "Name (A, Zero) Name (B, One) Name (C, 2) Name (D, 0x1234) Name (E, 0x12345678)"
        "Name (F, 0x123456789abcdef0) Name (G, Ones)",
        a.name("A", a.ZERO) + a.name("B", a.ONE) + a.name("C", 2) + a.name("D", 0x1234)
        + a.name("E", 0x12345678) + a.name("F", 0x123456789ABCDEF0) + a.name("G", a.ONES),
    ),
    "strings and ids": (
        'Name (A, "hello") Name (B, EisaId ("PNP0A08")) Name (C, EisaId ("ABC1234"))',
        a.name("A", a.string("hello")) + a.name("B", a.eisaid("PNP0A08")) + a.name("C", a.eisaid("ABC1234")),
    ),
    "uuid": (
        'Name (U, ToUUID ("33db4d5b-1ff7-401c-9657-7441c03dd766"))',
        a.name("U", a.uuid("33db4d5b-1ff7-401c-9657-7441c03dd766")),
    ),
    "buffers": (
        "Name (A, Buffer () {1, 2, 3}) Name (B, Buffer (300) {})" + in_method("Local0 = Buffer (Arg0) {7}"),
        a.name("A", a.buffer(b"\1\2\3")) + a.name("B", a.buffer(size=300))
        + method(a.store(a.buffer(b"\7", a.ARG0), a.LOCAL0)),
    ),
    "packages": (
        'Name (A, Package (4) {1, "x"}) Name (B, Package () {Package () {0}, \\_SB})'
        + in_method("Local0 = Package (Arg0) {5}"),
        a.name("A", a.package(1, a.string("x"), count=4)) + a.name("B", a.package(a.package(0), "\\_SB"))
        + method(a.store(a.var_package(a.ARG0, 5), a.LOCAL0)),
    ),
    "long package": (
        "Name (A, Package () {" + ",".join(["0x12345678"] * 255) + "})",
        a.name("A", a.package(*[0x12345678] * 255)),
    ),
    "scopes and paths": (
        "Scope (\\_SB) { Device (DEV) { Device (SUB) { Name (^X, 1) Name (\\Y, 2) } } }"
        "Name (\\_SB.DEV.SUB.Z, 3) Name (\\_SB.W, 4) Alias (\\_SB.W, V)",
        a.scope("\\_SB", a.device("DEV", a.device("SUB", a.name("^X", 1), a.name("\\Y", 2))))
        + a.name("\\_SB.DEV.SUB.Z", 3) + a.name("\\_SB.W", 4) + a.alias("\\_SB.W", "V"),
    ),
    "power and thermal": (
        "PowerResource (P, 2, 0x102) { Method (_STA) { Return (1) } } ThermalZone (T) { }",
        a.power_resource("P", 2, 0x102, a.method("_STA", 0, a.return_(1))) + a.thermal_zone("T"),
    ),
    "regions and fields": (
        "OperationRegion (R, SystemMemory, 0x123456789a, 0x40) OperationRegion (I, SystemIO, 0x600, 1)"
        "OperationRegion (Q, PCI_Config, Zero, 0x100)"
        "Field (R, DWordAcc, Lock, WriteAsZeros) { A, 1, , 3, Offset (4), B, 8, Offset (0x10), C, 64, "
        " D, 100 }"
        "Field (I, AnyAcc, NoLock, WriteAsOnes) { IX, 4, DT, 4 }"
        "IndexField (IX, DT, ByteAcc, NoLock, Preserve) { Offset (2), E, 8 }"
        "BankField (R, A, 3, QWordAcc, NoLock, Preserve) { G, 8 }",
        a.op_region("R", a.SYSTEM_MEMORY, 0x123456789A, 0x40) + a.op_region("I", a.SYSTEM_IO, 0x600, 1)
        + a.op_region("Q", a.PCI_CONFIG, 0, 0x100)
        + a.field("R", ("A", 1), ("", 3), a.offset(4), ("B", 8), a.offset(0x10), ("C", 64), ("D", 100),
                  access=a.DWORD_ACC, lock=True, update=a.WRITE_AS_ZEROS)
        + a.field("I", ("IX", 4), ("DT", 4), access=a.ANY_ACC, update=a.WRITE_AS_ONES)
        + a.index_field("IX", "DT", a.offset(2), ("E", 8))
        + a.bank_field("R", "A", 3, ("G", 8), access=a.QWORD_ACC),
    ),
    "external": (
        "External (\\_SB.FOO, MethodObj, IntObj, {IntObj, IntObj})"
        "Method (N, 0, NotSerialized) { \\_SB.FOO (1, 2) }",
        # iasl hides an External in If (0), for readers older than the opcode.
        a.if_(0, a.external("\\_SB.FOO", 8, 2)) + a.method("N", 0, a.call("\\_SB.FOO", 1, 2)),
    ),
}

STATEMENTS = {
    "buffer fields": (
        "CreateBitField (Arg0, 1, F1) CreateByteField (Arg0, 2, F2) CreateWordField (Arg0, 3, F3)"
        "CreateDWordField (Arg0, 4, F4) CreateQWordField (Arg0, 5, F5) CreateField (Arg0, 6, 7, F6)",
        (
            *(a.create_bit_field(a.ARG0, 1, "F1"), a.create_byte_field(a.ARG0, 2, "F2")),
            *(a.create_word_field(a.ARG0, 3, "F3"), a.create_dword_field(a.ARG0, 4, "F4")),
            *(a.create_qword_field(a.ARG0, 5, "F5"), a.create_field(a.ARG0, 6, 7, "F6")),
        ),
    ),
    "branches": (
        "If (Arg0) { Noop } Else { Local0 = 1 } If (Arg1) { Return (2) } ElseIf (Arg2) { Return (Local0) }"
        "While (One) { If (Arg3) { Break } Continue } Return (Zero)",
        (
            *(a.if_(a.ARG0, a.noop()), a.else_(a.store(1, a.LOCAL0)), a.if_(a.ARG1, a.return_(2))),
            a.else_(a.if_(a.ARG2, a.return_(a.LOCAL0))),
            *(a.while_(1, a.if_(a.ARG3, a.break_()), a.continue_()), a.return_()),
        ),
    ),
    "arithmetic": (
        "Add (Arg0, 1, Local0) Subtract (Arg0, 2, Local1) Multiply (Arg0, 3, Local2)"
        "Divide (Arg0, 4, Local3, Local4) Mod (Arg0, 5, Local5) ShiftLeft (Arg0, 6, Local6)"
        "ShiftRight (Arg0, 7, Local7) And (Arg0, 8, Arg1) NAnd (Arg0, 9, Arg2) Or (Arg0, 10, Arg3)"
        "NOr (Arg0, 11, Arg4) XOr (Arg0, 12, Arg5) Not (Arg0, Arg6) Increment (Local0) Decrement (Local0)"
        "FindSetLeftBit (Arg0, Local0) FindSetRightBit (Arg0, Local0) Local0 = Arg1 + Arg2",
        (
            *(a.add(a.ARG0, 1, a.LOCAL0), a.subtract(a.ARG0, 2, a.LOCAL1), a.multiply(a.ARG0, 3, a.LOCAL2)),
            *(a.divide(a.ARG0, 4, a.LOCAL3, a.LOCAL4), a.mod(a.ARG0, 5, a.LOCAL5)),
            *(a.shift_left(a.ARG0, 6, a.LOCAL6), a.shift_right(a.ARG0, 7, a.LOCAL7)),
            *(a.and_(a.ARG0, 8, a.ARG1), a.nand(a.ARG0, 9, a.ARG2), a.or_(a.ARG0, 10, a.ARG3)),
            *(a.nor(a.ARG0, 11, a.ARG4), a.xor(a.ARG0, 12, a.ARG5), a.not_(a.ARG0, a.ARG6)),
            *(a.increment(a.LOCAL0), a.decrement(a.LOCAL0), a.find_set_left_bit(a.ARG0, a.LOCAL0)),
            *(a.find_set_right_bit(a.ARG0, a.LOCAL0), a.add(a.ARG1, a.ARG2, a.LOCAL0)),
        ),
    ),
    "logic": (
        "If (LAnd (LEqual (Arg0, 1), LLess (Arg1, 2))) { } If (LOr (LGreater (Arg0, 3), LNot (Arg1))) { }"
        "If (LNotEqual (Arg0, 4)) { } If (LLessEqual (Arg0, 5)) { } If (LGreaterEqual (Arg0, 6)) { }",
        (
            a.if_(a.l_and(a.l_equal(a.ARG0, 1), a.l_less(a.ARG1, 2))),
            a.if_(a.l_or(a.l_greater(a.ARG0, 3), a.l_not(a.ARG1))),
            *(a.if_(a.l_not_equal(a.ARG0, 4)), a.if_(a.l_less_equal(a.ARG0, 5))),
            a.if_(a.l_greater_equal(a.ARG0, 6)),
        ),
    ),
    "objects": (
        "Local0 = RefOf (Arg0) Local1 = DerefOf (Local0) Local2 = SizeOf (Arg1) Local3 = ObjectType (Arg2)"
        "Index (Arg3, 4, Local4) Local5 = DerefOf (Index (Arg3, 5)) CondRefOf (\\_SB, Local6)"
        "CopyObject (Arg4, Local7) Concatenate (Arg5, Arg6, Local0) Mid (Arg0, 1, 2, Local1)"
        "ToInteger (Arg0, Local2) ToBuffer (Arg0, Local3) ToHexString (Arg0, Local4)"
        "ToDecimalString (Arg0, Local5) Debug = Arg0 DerefOf (Local0) = 5",
        (
            *(a.store(a.ref_of(a.ARG0), a.LOCAL0), a.store(a.deref_of(a.LOCAL0), a.LOCAL1)),
            *(a.store(a.size_of(a.ARG1), a.LOCAL2), a.store(a.object_type(a.ARG2), a.LOCAL3)),
            *(a.index(a.ARG3, 4, a.LOCAL4), a.store(a.deref_of(a.index(a.ARG3, 5)), a.LOCAL5)),
            *(a.cond_ref_of("\\_SB", a.LOCAL6), a.copy_object(a.ARG4, a.LOCAL7)),
            *(a.concat(a.ARG5, a.ARG6, a.LOCAL0), a.mid(a.ARG0, 1, 2, a.LOCAL1)),
            *(a.to_integer(a.ARG0, a.LOCAL2), a.to_buffer(a.ARG0, a.LOCAL3)),
            *(a.to_hex_string(a.ARG0, a.LOCAL4), a.to_decimal_string(a.ARG0, a.LOCAL5)),
            *(a.store(a.ARG0, a.DEBUG), a.store(5, a.deref_of(a.LOCAL0))),
        ),
    ),
}

SYNC = (
    "Mutex (MTX, 3) Event (EVT) Device (DEV) { } Method (CALL, 2) { Return (Arg0) }"
    "Method (M, 1, Serialized, 5) { Acquire (MTX, 0x1234) Acquire (MTX, 0xFFFF) Release (MTX) Signal (EVT)"
    " Wait (EVT, 100) Reset (EVT) Sleep (10) Stall (20) Notify (DEV, 0x80) Fatal (1, 2, Arg0)"
    " Local0 = CALL (1, CALL (2, 3)) CALL (Local0, \\DEV) }",
    a.mutex("MTX", 3) + a.event("EVT") + a.device("DEV") + a.method("CALL", 2, a.return_(a.ARG0))
    + a.method(
        "M", 1,
        *(a.acquire("MTX", 0x1234), a.acquire("MTX"), a.release("MTX"), a.signal("EVT"), a.wait("EVT", 100)),
        *(a.reset_event("EVT"), a.sleep(10), a.stall(20), a.notify("DEV", 0x80), a.fatal(1, 2, a.ARG0)),
        a.store(a.call("CALL", 1, a.call("CALL", 2, 3)), a.LOCAL0), a.call("CALL", a.LOCAL0, "\\DEV"),
        serialized=True, sync_level=5,
    ),
)  # fmt: skip

RESOURCES = (
    "Name (_CRS, ResourceTemplate () {"
    " Memory32Fixed (ReadWrite, 0xE8000000, 0x100000) Memory32Fixed (ReadOnly, 0, 0x1000)"
    " IO (Decode16, 0xCF8, 0xCF8, 1, 8) IRQNoFlags () {3, 4, 15}"
    " Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) {13}"
    " Interrupt (ResourceProducer, Level, ActiveLow, SharedAndWake) {5, 0x12345678}"
    " WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 2, 9, 0, 8)"
    " WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, 0, 0xD00, 0xFFFF, 0, 0xF300)"
    " DWordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, 0, 0, 0xFFFF,"
    "  0x9050000, 0x10000)"
    " QWordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, 0, 0, 0xFFFF,"
    "  0x9050000, 0x10000)"
    " DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,"
    "  0, 0xC0000000, 0xE7FFFFFF, 0, 0x28000000)"
    " DWordMemory (ResourceConsumer, PosDecode, MinFixed, MaxFixed, Prefetchable, ReadOnly,"
    "  0, 0, 0xFFF, 1, 0x1000)"
    " QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, Cacheable, ReadWrite,"
    "  0, 0x100000000, 0x3FFFFFFFFFFF, 0, 0x3FFF00000000)"
    "})",
    a.name("_CRS", r.template(
        r.memory32_fixed(0xE8000000, 0x100000), r.memory32_fixed(0, 0x1000, writable=False),
        r.io(0xCF8, 8, align=1), r.irq_no_flags(3, 4, 15), r.interrupt(13, edge=True),
        r.interrupt(5, 0x12345678, active_low=True, shared=True, wake=True, consumer=False),
        r.word_bus(2, 9), r.word_io(0xD00, 0xFFFF), r.dword_io(0, 0xFFFF, translation=0x9050000),
        r.qword_io(0, 0xFFFF, translation=0x9050000), r.dword_memory(0xC0000000, 0xE7FFFFFF),
        r.dword_memory(0, 0xFFF, r.PREFETCHABLE, writable=False, consumer=True, translation=1),
        r.qword_memory(0x100000000, 0x3FFFFFFFFFFF, r.CACHEABLE),
        checksum=False,
    )),
)  # fmt: skip

CASES = {
    **DATA,
    **{key: (in_method(text), method(*body)) for key, (text, body) in STATEMENTS.items()},
    "synchronisation and calls": SYNC,
    "resources": RESOURCES,
}


@pytest.mark.parametrize("case", CASES)
def test_same_bytes_as_iasl(iasl: Iasl, case: str) -> None:
    text, expected = CASES[case]
    assert expected.hex(" ") == iasl.body(text).hex(" ")


def test_end_tag_makes_the_sum_zero() -> None:
    data = r.template(r.memory32_fixed(0xE8000000, 0x100000), r.interrupt(13, edge=True))
    content = data[4:]  # BufferOp, one byte of length, ByteConst
    assert content[-2] == 0x79 and content[-1] != 0
    assert sum(content) % 256 == 0


def test_resources_that_do_not_fit_are_refused() -> None:
    calls: tuple[Callable[[], bytes], ...] = (
        lambda: r.memory32_fixed(0xFFFFF000, 0x2000),
        lambda: r.io(0xFFFF, 2),
        lambda: r.io(0, 256),
        lambda: r.irq_no_flags(16),
        lambda: r.interrupt(),
        lambda: r.word_bus(1, 0),
        lambda: r.word_io(0, 0x10000),
        lambda: r.dword_memory(0x1000, 0x1_0000_0000),
        lambda: r.qword_memory(0, (1 << 64) - 1),
    )
    for make in calls:
        with pytest.raises(ValueError, match="ACPI resource"):
            make()
