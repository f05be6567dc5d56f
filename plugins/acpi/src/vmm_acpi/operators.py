# SPDX-License-Identifier: Apache-2.0
"""AML statements and expressions (ACPI 6.5 §20.2.5.3, §20.2.5.4, §20.2.6).

Operands are terms (see `vmm_acpi.encoding`).  A result target is optional: left out, the
value is only that of the expression.  Callers use `vmm_acpi.aml`, which re-exports these functions.
"""

from __future__ import annotations

from .encoding import join, name_path, packaged, term

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .encoding import Term

LOCAL0, LOCAL1, LOCAL2, LOCAL3, LOCAL4, LOCAL5, LOCAL6, LOCAL7 = (bytes((0x60 + n,)) for n in range(8))
ARG0, ARG1, ARG2, ARG3, ARG4, ARG5, ARG6 = (bytes((0x68 + n,)) for n in range(7))
DEBUG = b"\x5b\x31"
NO_TARGET = b"\x00"  # NullName: the result is not stored (ACPI 6.5 §20.2.2)


def call(path: str, *arguments: Term) -> bytes:
    """Method invocation; the reader knows the argument count from the method (ACPI 6.5 §20.2.5)."""
    return name_path(path) + join(arguments)


# Control flow (ACPI 6.5 §20.2.5.3)


def if_(condition: Term, *body: Term) -> bytes:
    """If: run `body` when `condition` is not zero (DefIfElse, ACPI 6.5 §20.2.5.3)."""
    return packaged(b"\xa0", term(condition) + join(body))


def else_(*body: Term) -> bytes:
    """Else of the `if_` written directly before it (DefElse, ACPI 6.5 §20.2.5.3)."""
    return packaged(b"\xa1", join(body))


def while_(condition: Term, *body: Term) -> bytes:
    """While loop (DefWhile, ACPI 6.5 §20.2.5.3)."""
    return packaged(b"\xa2", term(condition) + join(body))


def break_() -> bytes:
    """Leave the loop (DefBreak, ACPI 6.5 §20.2.5.3)."""
    return b"\xa5"


def continue_() -> bytes:
    """Go to the next turn of the loop (DefContinue, ACPI 6.5 §20.2.5.3)."""
    return b"\x9f"


def noop() -> bytes:
    """Do nothing (DefNoop, ACPI 6.5 §20.2.5.3)."""
    return b"\xa3"


def return_(value: Term = 0) -> bytes:
    """Return from the method (DefReturn, ACPI 6.5 §20.2.5.3)."""
    return b"\xa4" + term(value)


def notify(target: Term, value: Term) -> bytes:
    """Notify the driver of device `target` (DefNotify, ACPI 6.5 §20.2.5.3; values §5.6.6)."""
    return b"\x86" + term(target) + term(value)


def acquire(mutex: Term, timeout: int = 0xFFFF) -> bytes:
    """Acquire a mutex; `timeout` in milliseconds, 0xFFFF waits for ever (DefAcquire, ACPI 6.5 §20.2.5.4)."""
    return b"\x5b\x23" + term(mutex) + _timeout(timeout)


def release(mutex: Term) -> bytes:
    """Release a mutex (DefRelease, ACPI 6.5 §20.2.5.3)."""
    return b"\x5b\x27" + term(mutex)


def signal(event: Term) -> bytes:
    """Signal an event object (DefSignal, ACPI 6.5 §20.2.5.3)."""
    return b"\x5b\x24" + term(event)


def wait(event: Term, timeout: Term = 0xFFFF) -> bytes:
    """Wait for an event object, `timeout` in milliseconds (DefWait, ACPI 6.5 §20.2.5.4)."""
    return b"\x5b\x25" + term(event) + term(timeout)


def reset_event(event: Term) -> bytes:
    """Reset an event object (DefReset, ACPI 6.5 §20.2.5.3)."""
    return b"\x5b\x26" + term(event)


def sleep(milliseconds: Term) -> bytes:
    """Sleep, giving up the processor (DefSleep, ACPI 6.5 §20.2.5.3)."""
    return b"\x5b\x22" + term(milliseconds)


def stall(microseconds: Term) -> bytes:
    """Delay by at most 100 µs, keeping the processor (DefStall, ACPI 6.5 §20.2.5.3)."""
    return b"\x5b\x21" + term(microseconds)


def fatal(kind: int, code: int, argument: Term) -> bytes:
    """Report a fatal error to the OS: byte, dword, term (DefFatal, ACPI 6.5 §20.2.5.3)."""
    return b"\x5b\x32" + kind.to_bytes(1, "little") + code.to_bytes(4, "little") + term(argument)


def _timeout(milliseconds: int) -> bytes:
    if not 0 <= milliseconds <= 0xFFFF:
        raise ValueError(f"AML timeout {milliseconds} ms does not fit in 16 bits")
    return milliseconds.to_bytes(2, "little")


# Expressions (ACPI 6.5 §20.2.5.4)


def store(source: Term, target: Term) -> bytes:
    """Store with conversion to the target's type (DefStore, ACPI 6.5 §20.2.5.4)."""
    return b"\x70" + term(source) + term(target)


def copy_object(source: Term, target: Term) -> bytes:
    """Copy without conversion (DefCopyObject, ACPI 6.5 §20.2.5.4)."""
    return b"\x9d" + term(source) + term(target)


def add(a: Term, b: Term, target: Term = NO_TARGET) -> bytes:
    """`a + b` (DefAdd, ACPI 6.5 §20.2.5.4)."""
    return b"\x72" + term(a) + term(b) + term(target)


def subtract(a: Term, b: Term, target: Term = NO_TARGET) -> bytes:
    """`a - b` (DefSubtract, ACPI 6.5 §20.2.5.4)."""
    return b"\x74" + term(a) + term(b) + term(target)


def multiply(a: Term, b: Term, target: Term = NO_TARGET) -> bytes:
    """`a * b` (DefMultiply, ACPI 6.5 §20.2.5.4)."""
    return b"\x77" + term(a) + term(b) + term(target)


def mod(a: Term, b: Term, target: Term = NO_TARGET) -> bytes:
    """`a % b` (DefMod, ACPI 6.5 §20.2.5.4)."""
    return b"\x85" + term(a) + term(b) + term(target)


def shift_left(a: Term, b: Term, target: Term = NO_TARGET) -> bytes:
    """`a << b` (DefShiftLeft, ACPI 6.5 §20.2.5.4)."""
    return b"\x79" + term(a) + term(b) + term(target)


def shift_right(a: Term, b: Term, target: Term = NO_TARGET) -> bytes:
    """`a >> b` (DefShiftRight, ACPI 6.5 §20.2.5.4)."""
    return b"\x7a" + term(a) + term(b) + term(target)


def and_(a: Term, b: Term, target: Term = NO_TARGET) -> bytes:
    """`a & b` (DefAnd, ACPI 6.5 §20.2.5.4)."""
    return b"\x7b" + term(a) + term(b) + term(target)


def nand(a: Term, b: Term, target: Term = NO_TARGET) -> bytes:
    """`~(a & b)` (DefNAnd, ACPI 6.5 §20.2.5.4)."""
    return b"\x7c" + term(a) + term(b) + term(target)


def or_(a: Term, b: Term, target: Term = NO_TARGET) -> bytes:
    """`a | b` (DefOr, ACPI 6.5 §20.2.5.4)."""
    return b"\x7d" + term(a) + term(b) + term(target)


def nor(a: Term, b: Term, target: Term = NO_TARGET) -> bytes:
    """`~(a | b)` (DefNOr, ACPI 6.5 §20.2.5.4)."""
    return b"\x7e" + term(a) + term(b) + term(target)


def xor(a: Term, b: Term, target: Term = NO_TARGET) -> bytes:
    """`a ^ b` (DefXOr, ACPI 6.5 §20.2.5.4)."""
    return b"\x7f" + term(a) + term(b) + term(target)


def concat(a: Term, b: Term, target: Term = NO_TARGET) -> bytes:
    """A and b one behind the other (DefConcat, ACPI 6.5 §20.2.5.4)."""
    return b"\x73" + term(a) + term(b) + term(target)


def index(a: Term, b: Term, target: Term = NO_TARGET) -> bytes:
    """A reference to element b of a buffer, string or package (DefIndex, ACPI 6.5 §20.2.5.4)."""
    return b"\x88" + term(a) + term(b) + term(target)


def not_(a: Term, target: Term = NO_TARGET) -> bytes:
    """~a (DefNot, ACPI 6.5 §20.2.5.4)."""
    return b"\x80" + term(a) + term(target)


def find_set_left_bit(a: Term, target: Term = NO_TARGET) -> bytes:
    """One-based position of the highest bit set, 0 if none (DefFindSetLeftBit, ACPI 6.5 §20.2.5.4)."""
    return b"\x81" + term(a) + term(target)


def find_set_right_bit(a: Term, target: Term = NO_TARGET) -> bytes:
    """One-based position of the lowest bit set, 0 if none (DefFindSetRightBit, ACPI 6.5 §20.2.5.4)."""
    return b"\x82" + term(a) + term(target)


def cond_ref_of(a: Term, target: Term = NO_TARGET) -> bytes:
    """True if the object exists, with a reference to it in the target (DefCondRefOf, ACPI 6.5 §20.2.5.4)."""
    return b"\x5b\x12" + term(a) + term(target)


def to_buffer(a: Term, target: Term = NO_TARGET) -> bytes:
    """A as buffer (DefToBuffer, ACPI 6.5 §20.2.5.4)."""
    return b"\x96" + term(a) + term(target)


def to_integer(a: Term, target: Term = NO_TARGET) -> bytes:
    """A as integer (DefToInteger, ACPI 6.5 §20.2.5.4)."""
    return b"\x99" + term(a) + term(target)


def to_hex_string(a: Term, target: Term = NO_TARGET) -> bytes:
    """A as text in hexadecimal (DefToHexString, ACPI 6.5 §20.2.5.4)."""
    return b"\x98" + term(a) + term(target)


def to_decimal_string(a: Term, target: Term = NO_TARGET) -> bytes:
    """A as text in decimal (DefToDecimalString, ACPI 6.5 §20.2.5.4)."""
    return b"\x97" + term(a) + term(target)


def increment(a: Term) -> bytes:
    """Add one to `a` in place (DefIncrement, ACPI 6.5 §20.2.5.4)."""
    return b"\x75" + term(a)


def decrement(a: Term) -> bytes:
    """Subtract one from `a` in place (DefDecrement, ACPI 6.5 §20.2.5.4)."""
    return b"\x76" + term(a)


def size_of(a: Term) -> bytes:
    """Size of a buffer, string or package (DefSizeOf, ACPI 6.5 §20.2.5.4)."""
    return b"\x87" + term(a)


def ref_of(a: Term) -> bytes:
    """Reference to an object (DefRefOf, ACPI 6.5 §20.2.5.4)."""
    return b"\x71" + term(a)


def deref_of(a: Term) -> bytes:
    """Object behind a reference (DefDerefOf, ACPI 6.5 §20.2.5.4)."""
    return b"\x83" + term(a)


def object_type(a: Term) -> bytes:
    """Type number of an object (DefObjectType, ACPI 6.5 §20.2.5.4)."""
    return b"\x8e" + term(a)


def l_not(a: Term) -> bytes:
    """Logical not (DefLNot, ACPI 6.5 §20.2.5.4)."""
    return b"\x92" + term(a)


def l_and(a: Term, b: Term) -> bytes:
    """True (all ones) if a and b are both true (DefLAnd, ACPI 6.5 §20.2.5.4)."""
    return b"\x90" + term(a) + term(b)


def l_or(a: Term, b: Term) -> bytes:
    """True (all ones) if a or b is true (DefLOr, ACPI 6.5 §20.2.5.4)."""
    return b"\x91" + term(a) + term(b)


def l_equal(a: Term, b: Term) -> bytes:
    """True (all ones) if `a == b` (DefLEqual, ACPI 6.5 §20.2.5.4)."""
    return b"\x93" + term(a) + term(b)


def l_greater(a: Term, b: Term) -> bytes:
    """True (all ones) if `a > b` (DefLGreater, ACPI 6.5 §20.2.5.4)."""
    return b"\x94" + term(a) + term(b)


def l_less(a: Term, b: Term) -> bytes:
    """True (all ones) if `a < b` (DefLLess, ACPI 6.5 §20.2.5.4)."""
    return b"\x95" + term(a) + term(b)


def l_not_equal(a: Term, b: Term) -> bytes:
    """True (all ones) if `a != b` (DefLNotEqual, ACPI 6.5 §20.2.5.4)."""
    return b"\x92\x93" + term(a) + term(b)


def l_less_equal(a: Term, b: Term) -> bytes:
    """True (all ones) if `a <= b` (DefLLessEqual, ACPI 6.5 §20.2.5.4)."""
    return b"\x92\x94" + term(a) + term(b)


def l_greater_equal(a: Term, b: Term) -> bytes:
    """True (all ones) if `a >= b` (DefLGreaterEqual, ACPI 6.5 §20.2.5.4)."""
    return b"\x92\x95" + term(a) + term(b)


def divide(a: Term, b: Term, remainder: Term = NO_TARGET, quotient: Term = NO_TARGET) -> bytes:
    """`a / b`, the remainder stored apart (DefDivide, ACPI 6.5 §20.2.5.4)."""
    return b"\x78" + term(a) + term(b) + term(remainder) + term(quotient)


def mid(source: Term, start: Term, length: Term, target: Term = NO_TARGET) -> bytes:
    """Part of a string or buffer (DefMid, ACPI 6.5 §20.2.5.4)."""
    return b"\x9e" + term(source) + term(start) + term(length) + term(target)
