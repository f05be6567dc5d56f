# SPDX-License-Identifier: Apache-2.0
"""Types of option values: how each is read from text, accepted from a file, and described in a schema."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Generic, TypeVar

    T = TypeVar("T")

    class Typed(Generic[T]):
        pass
else:  # `typing` costs milliseconds that `vmm run` has better use for

    class Typed:
        __slots__ = ()

        def __class_getitem__(cls, item: object) -> type:
            return cls

    T = None


class Kind(Typed[T]):
    """A value type: how it is read from text, accepted from a file, and described in a schema."""

    name = "VALUE"
    json: dict[str, Any] = {}

    def parse(self, text: str) -> T:
        """The value that `text` stands for. Raises ValueError, whose message says what was expected."""
        raise NotImplementedError

    def accept(self, value: Any) -> T:
        """The value for something read from TOML, JSON or Python. Raises ValueError."""
        if isinstance(value, str):
            return self.parse(value)
        raise ValueError(f"expected {self.name}, not {value!r}")


class _Str(Kind[str]):
    name, json = "TEXT", {"type": "string"}

    def parse(self, text: str) -> str:
        if "\0" in text:
            raise ValueError("a NUL character cannot be part of it")
        return text


class _Int(Kind[int]):
    name, json = "N", {"type": "integer"}

    def parse(self, text: str) -> int:
        try:
            return int(text, 0) if text[:2].lower() in ("0x", "0b", "0o") else int(text)
        except ValueError:
            raise ValueError(f"'{text}' is not a whole number") from None

    def accept(self, value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():  # JSON's 9.0 is an integer
            return int(value)
        return super().accept(value)


class _Bool(Kind[bool]):
    name, json = "on|off", {"type": "boolean"}

    def parse(self, text: str) -> bool:
        word = text.lower()
        if word in ("on", "true"):
            return True
        if word in ("off", "false"):
            return False
        raise ValueError(f"'{text}' is neither on nor off")

    def accept(self, value: Any) -> bool:
        return value if isinstance(value, bool) else super().accept(value)


_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


class _Size(Kind[int]):
    name = "SIZE"
    json = {
        "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+ ?[KMGT]?(i?B)?$"}]
    }

    def parse(self, text: str) -> int:
        word = text.strip().upper()
        for suffix in ("IB", "B"):
            if word.endswith(suffix):
                word = word[: -len(suffix)]
                break
        unit = word[-1:] if word[-1:] in "KMGT" else ""
        digits = word[: len(word) - len(unit)].strip()
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 20:
            raise ValueError(f"'{text}' is not a size (512M, 2G, 4096, …)")
        return int(digits) << _UNITS[unit]

    def accept(self, value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return super().accept(value)


class _Path(Kind[str]):
    name, json = "PATH", {"type": "string", "minLength": 1}

    def parse(self, text: str) -> str:
        if not text:
            raise ValueError("the path is empty")
        if "\0" in text:
            raise ValueError("a NUL character cannot be part of a path")
        return os.path.abspath(os.path.expanduser(text))

    def accept(self, value: Any) -> str:
        return self.parse(os.fspath(value)) if isinstance(value, os.PathLike) else super().accept(value)


def unbracket(text: str) -> str:
    """`text` without one pair of enclosing brackets."""
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


class _IntList(Kind["list[int]"]):
    name = "[0-3,5]"
    json = {"anyOf": [{"type": "array", "items": {"type": "integer", "minimum": 0}}, {"type": "string"}]}

    def parse(self, text: str) -> list[int]:
        numbers: list[int] = []
        for part in split(unbracket(text)):
            first, dash, last = part.partition("-")
            try:
                low = int(first)
                high = int(last) if dash else low
            except ValueError:
                raise ValueError(f"'{text}' is not a list of numbers like [0-3,5]") from None
            if not 0 <= low <= high or high - low > 65535:
                raise ValueError(f"'{part}' is not a range of numbers")
            numbers += range(low, high + 1)
        return numbers

    def accept(self, value: Any) -> list[int]:
        if isinstance(value, list | tuple) and all(type(n) is int and n >= 0 for n in value):
            return list(value)
        return [value] if type(value) is int and value >= 0 else super().accept(value)


class _StrList(Kind["list[str]"]):
    name = "[a,b]"
    json = {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}

    def parse(self, text: str) -> list[str]:
        return [unquote(part) for part in split(unbracket(text))]

    def accept(self, value: Any) -> list[str]:
        if isinstance(value, list | tuple) and all(isinstance(word, str) for word in value):
            return list(value)
        return super().accept(value)


class _Affinity(Kind["dict[int, list[int]]"]):
    name = "[VCPU@[HOST_CPUS],…]"
    json = {"anyOf": [{"type": "object", "additionalProperties": _IntList.json}, {"type": "string"}]}

    def parse(self, text: str) -> dict[int, list[int]]:
        result: dict[int, list[int]] = {}
        for part in split(unbracket(text)):
            vcpu, at, hosts = part.partition("@")
            if not at or not vcpu.isdecimal() or int(vcpu) in result:
                raise ValueError(f"'{part}' is not like 0@[0-3] with each vCPU named once")
            result[int(vcpu)] = IntList.parse(hosts)
        return result

    def accept(self, value: Any) -> dict[int, list[int]]:
        if isinstance(value, dict):
            try:
                return {int(vcpu): IntList.accept(hosts) for vcpu, hosts in value.items()}
            except TypeError:
                raise ValueError(f"expected vCPU numbers with lists of host CPUs, not {value!r}") from None
        return super().accept(value)


Size: Kind[int] = _Size()
Path: Kind[str] = _Path()
IntList: Kind[list[int]] = _IntList()
StrList: Kind[list[str]] = _StrList()
Affinity: Kind[dict[int, list[int]]] = _Affinity()

KINDS: dict[Any, Kind[Any]] = {str: _Str(), int: _Int(), bool: _Bool()}


def split(text: str) -> list[str]:
    """Split at the commas outside of brackets and double quotes. Raises ValueError."""
    parts: list[str] = []
    depth, quoted, start = 0, False, 0
    for position, char in enumerate(text):
        if char == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif char == "[":
            depth += 1
        elif char == "]":
            depth -= 1
            if depth < 0:
                raise ValueError(f"'{text}' has a ] without a [")
        elif char == "," and not depth:
            parts.append(text[start:position])
            start = position + 1
    if depth or quoted:
        raise ValueError(f"'{text}' lacks a closing {']' if depth else 'quote'}")
    if text:
        parts.append(text[start:])
    if any(not part for part in parts):
        raise ValueError(f"'{text}' has an empty part between commas")
    return parts


def unquote(text: str) -> str:
    """`text` without enclosing double quotes."""
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] == '"' else text
