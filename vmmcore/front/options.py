# SPDX-License-Identifier: Apache-2.0
"""Typed options: one declaration gives the flag syntax, the config file keys and the JSON schema.

The text form is Cloud Hypervisor's: ``key=value,key2=[a,b],word``. Commas inside brackets
or double quotes do not separate. Sizes take K, M, G, T (powers of 1024); switches take
on, off, true, false. A plugin declares its options so::

    class FooOptions(Options):
        positional = "path"                       # `--foo /a/b` means `--foo path=/a/b`
        path = Option(Path, doc="the image")      # no default: required
        size = Option(Size, 1 << 20, "bytes of it to show", min=4096)
        readonly = Option(bool, False, "refuse writes")
"""

from __future__ import annotations

from ..errors import UserError
from .kinds import KINDS, Affinity, IntList, Kind, Path, Size, StrList, T, Typed, split, unbracket, unquote

__all__ = [
    "REQUIRED",
    "Affinity",
    "IntList",
    "Kind",
    "Option",
    "Options",
    "Path",
    "Size",
    "StrList",
    "T",
    "nearest",
    "split",
    "split_or_fail",
    "unbracket",
    "unknown_key",
    "unquote",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, ClassVar, Literal, Self, TypeVar, overload

    Q = TypeVar("Q")


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = _Required()


class Option(Typed[T]):
    """One option of an :class:`Options` class.

    type     str, int, bool, or a Kind: Size (bytes), Path (made absolute), IntList, StrList, Affinity
    default  the value when the option is not given; none: it must be given
    doc      one line for ``--help``, ``vmm plugins info`` and the schema
    min/max  inclusive bounds of numbers
    choices  the values allowed
    many     the value is a list; in text ``key=[a,b]``, or the key several times
    """

    key: str

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: Option[list[Q]],
            type: type[Q] | Kind[Q],
            default: list[Q] | _Required = ...,
            doc: str = "",
            *,
            min: int | None = ...,
            max: int | None = ...,
            choices: tuple[Q, ...] | None = ...,
            many: Literal[True],
            metavar: str | None = ...,
        ) -> None: ...
        @overload
        def __init__(
            self: Option[Q | None],
            type: type[Q] | Kind[Q],
            default: None,
            doc: str = "",
            *,
            min: int | None = ...,
            max: int | None = ...,
            choices: tuple[Q, ...] | None = ...,
            many: Literal[False] = ...,
            metavar: str | None = ...,
        ) -> None: ...
        @overload
        def __init__(
            self: Option[Q],
            type: type[Q] | Kind[Q],
            default: Q | _Required = ...,
            doc: str = "",
            *,
            min: int | None = ...,
            max: int | None = ...,
            choices: tuple[Q, ...] | None = ...,
            many: Literal[False] = ...,
            metavar: str | None = ...,
        ) -> None: ...

    def __init__(
        self,
        type: Any,
        default: Any = REQUIRED,
        doc: str = "",
        *,
        min: int | None = None,
        max: int | None = None,
        choices: tuple[Any, ...] | None = None,
        many: bool = False,
        metavar: str | None = None,
    ) -> None:
        self.kind: Kind[Any] = KINDS[type] if type in (str, int, bool) else type
        self.default, self.doc, self.min, self.max = default, doc, min, max
        self.choices, self.many = choices, many
        self.metavar = metavar or ("|".join(map(str, choices)) if choices else self.kind.name)

    def __set_name__(self, owner: type, name: str) -> None:
        self.key = name

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type) -> Option[T]: ...
        @overload
        def __get__(self, instance: Options, owner: type) -> T: ...

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else instance._values[self.key]

    def __set__(self, instance: Options, value: T) -> None:
        instance._values[self.key] = value

    def check(self, value: Any, where: str) -> Any:
        """`value` accepted and within bounds. Raises UserError naming `where`."""
        if self.many:
            items = value if isinstance(value, list | tuple) else [value]
            if isinstance(value, str):
                items = split(unbracket(value))
            return [self._one(item, where) for item in items]
        return self._one(value, where)

    def _one(self, value: Any, where: str) -> Any:
        try:
            result = self.kind.accept(value)
        except ValueError as error:
            raise UserError(where, str(error)) from None
        if self.choices is not None and result not in self.choices:
            allowed = ", ".join(map(str, self.choices))
            raise UserError(where, f"'{result}' is not one of {allowed}")
        if self.min is not None and result < self.min:
            raise UserError(where, f"{value} is too small", f"the least is {self.min}")
        if self.max is not None and result > self.max:
            raise UserError(where, f"{value} is too large", f"the most is {self.max}")
        return result

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the value."""
        result = dict(self.kind.json)
        if self.choices is not None:
            result["enum"] = list(self.choices)
        if "anyOf" not in result:
            if self.min is not None:
                result["minimum"] = self.min
            if self.max is not None:
                result["maximum"] = self.max
        if self.many:
            result = {"type": "array", "items": result}
        if self.doc:
            result["description"] = self.doc
        if self.default is not REQUIRED and self.default is not None:
            result["default"] = self.default
        return result


class Options:
    """Base of a set of options; subclasses hold :class:`Option` attributes. See the module's docstring."""

    #: the option that a bare first word sets
    positional: ClassVar[str | None] = None
    _options: ClassVar[dict[str, Option[Any]]] = {}
    _values: dict[str, Any]

    def __init_subclass__(cls) -> None:
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Option)}
        for name in own:
            if hasattr(Options, name):
                raise TypeError(f"{cls.__name__}.{name}: this name is taken by Options itself")
        inherited: dict[str, Option[Any]] = {}
        for base in reversed(cls.__bases__):  # several: fragments that are mixed
            inherited.update(getattr(base, "_options", {}))
        cls._options = {**inherited, **own}
        if cls.positional is None and "path" in cls._options:
            cls.positional = "path"

    def __init__(self, **values: Any) -> None:
        self._fill(values, type(self).__name__)

    def _fill(self, values: Mapping[str, Any], option: str) -> None:
        self._values = {}
        for key, value in values.items():
            declared = self._options.get(key) or self._options.get(key.replace("-", "_"))
            if declared is None:
                raise unknown_key(option, key, list(self._options))
            if value is None and declared.default is None:
                continue
            self._values[declared.key] = declared.check(value, f"{option} {declared.key}=")
        for key, declared in self._options.items():
            if key not in self._values:
                if declared.default is REQUIRED:
                    raise UserError(f"{option} {key}=", "missing", f"give {key}={declared.metavar}")
                default = declared.default
                self._values[key] = list(default) if isinstance(default, list) else default
        self.validate(option)

    def validate(self, option: str) -> None:
        """Checks across keys, for subclasses. Raise UserError(f"{option} key=", …)."""

    @classmethod
    def parse(cls, text: str, option: str = "") -> Self:
        """Read the flag syntax. `option` names the flag in errors. Raises UserError."""
        option = option or cls.__name__
        return cls.from_dict(cls.pairs(text, option), option)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], option: str = "") -> Self:
        """Take values of a config file or of Python. Raises UserError."""
        self = cls.__new__(cls)
        self._fill(values, option or cls.__name__)
        return self

    @classmethod
    def pairs(cls, text: str, option: str, extra: tuple[str, ...] = ()) -> dict[str, Any]:
        """`text` taken apart: key -> text (a list of texts for ``many``), bare words resolved."""
        result: dict[str, Any] = {}
        for index, part in enumerate(split_or_fail(text, option)):
            key, equals, value = part.partition("=")
            key = key.strip()
            name = key.replace("-", "_")
            declared = cls._options.get(name)
            if not equals or not key.replace("-", "").replace("_", "").isalnum():
                if index == 0 and cls.positional is not None:
                    name, value = cls.positional, part
                    declared = cls._options.get(name)
                elif declared is not None and declared.kind is KINDS[bool]:
                    value = "on"
                elif name in cls._options or name in extra:
                    raise UserError(f"{option} {key}=", "needs a value", f"write {key}=VALUE")
                elif cls._options or extra:
                    raise unknown_key(option, key, [*cls._options, *extra])
                else:
                    raise UserError(option, f"'{part}': this takes no options")
            elif declared is None and name not in extra:
                raise unknown_key(option, key, [*cls._options, *extra])
            if declared is not None and declared.many:
                result.setdefault(name, []).extend(unquote(item) for item in split(unbracket(value)))
            elif name in result:
                raise UserError(f"{option} {name}=", "given twice", "keep one of them")
            else:
                result[name] = unquote(value)
        return result

    def to_dict(self) -> dict[str, Any]:
        """All options as plain data."""
        return dict(self._values)

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """JSON Schema (2020-12) of the dict form."""
        required = [key for key, declared in cls._options.items() if declared.default is REQUIRED]
        result: dict[str, Any] = {
            "type": "object",
            "additionalProperties": False,
            "properties": {key: declared.schema() for key, declared in cls._options.items()},
        }
        return {**result, "required": required} if required else result

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self._values.items())})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._values == self._values

    __hash__ = None  # type: ignore[assignment]


def split_or_fail(text: str, option: str) -> list[str]:
    """As :func:`split`, raising UserError for `option`."""
    try:
        return split(text)
    except ValueError as error:
        raise UserError(option, str(error)) from None


def nearest(word: str, known: list[str]) -> str | None:
    """The known word that is most like `word`, or None."""
    from difflib import get_close_matches

    found = get_close_matches(word, known, 1, 0.5)
    return found[0] if found else None


def unknown_key(option: str, key: str, known: list[str]) -> UserError:
    """The error for a key that does not exist."""
    close = nearest(key.replace("-", "_"), known)
    mend = f"did you mean {close}?" if close else f"it takes {', '.join(sorted(known)) or 'no options'}"
    return UserError(option, f"unknown key '{key}'", mend)
