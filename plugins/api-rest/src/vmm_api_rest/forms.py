# SPDX-License-Identifier: Apache-2.0
"""How a set of options (:class:`vmmcore.front.options.Options`) looks in the API's JSON.

The options are the schema; what is here are only the places where Cloud Hypervisor's JSON differs from the flags:
other names, values in CamelCase, several options in one object, and fields that vmm knows but does not serve.
"""

from __future__ import annotations

from vmmcore.errors import UserError
from vmmcore.front.options import REQUIRED

from .errors import NotServed
from .schema import array, nullable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from vmmcore.front.options import Option, Options

    from .schema import Schema

BOOL: Schema = {"type": "boolean"}
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}


class Part:
    """One JSON field made of several options. Subclasses say which, and how it is read and shown."""

    #: the field's name, and the options that it stands for
    field = ""
    keys: tuple[str, ...] = ()
    schema: Schema = {}
    required = False

    def read(self, value: Any, where: str) -> dict[str, Any]:
        """Option values for a JSON value that fits the schema. Raises UserError."""
        raise NotImplementedError

    def show(self, values: dict[str, Any]) -> Any:
        """The JSON value for option values; None: leave it out."""
        raise NotImplementedError


def camel(word: str) -> str:
    """``fixed_vhd`` as Cloud Hypervisor's JSON has it: ``FixedVhd``."""
    return "".join(part.capitalize() for part in word.replace("-", "_").split("_"))


_BUCKET: Schema = {
    "type": "object", "additionalProperties": False, "required": ["size", "refill_time"],
    "properties": {"size": {**COUNT, "maximum": 1 << 60, "description": "tokens that the bucket holds"},
                   "one_time_burst": nullable({**COUNT, "maximum": 1 << 60,
                                               "description": "tokens beyond these, once"}),
                   "refill_time": {**COUNT, "maximum": 1 << 31, "description": "ms in which it is filled again"}},
}  # fmt: skip


class RateLimiter(Part):
    """``rate_limiter_config``: two token buckets."""

    field = "rate_limiter_config"
    keys = tuple(f"{prefix}_{key}" for prefix in ("bw", "ops") for key in ("size", "one_time_burst", "refill_time"))
    names = {"bandwidth": "bw", "ops": "ops"}
    schema: Schema = {
        "type": "object", "additionalProperties": False, "description": "limits of bytes and of operations",
        "properties": {name: nullable(_BUCKET) for name in names},
    }  # fmt: skip

    def read(self, value: Any, where: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, prefix in self.names.items():
            for key, number in (value.get(name) or {}).items():
                if number is not None:
                    found[f"{prefix}_{key}"] = number
        return found

    def show(self, values: dict[str, Any]) -> Any:
        found = {}
        for name, prefix in self.names.items():
            if values.get(f"{prefix}_size"):
                bucket = {"size": values[f"{prefix}_size"], "refill_time": values[f"{prefix}_refill_time"]}
                if values.get(f"{prefix}_one_time_burst"):
                    bucket["one_time_burst"] = values[f"{prefix}_one_time_burst"]
                found[name] = bucket
        return found or None


class StreamMode(Part):
    """``mode`` of a console or serial port: what the flags call tty, file=…"""

    field = "mode"
    required = True
    keys = ("mode",)

    def __init__(self, options: type[Options]) -> None:
        declared = options._options
        words = [camel(word) for word in declared["mode"].choices or ()]
        words += [key.capitalize() for key in ("file", "socket") if key in declared]
        self.schema = {"type": "string", "enum": words}

    def read(self, value: Any, where: str) -> dict[str, Any]:
        return {} if value in ("File", "Socket") else {"mode": value.lower()}

    def show(self, values: dict[str, Any]) -> Any:
        if values.get("mode"):
            return camel(values["mode"])
        return "Socket" if values.get("socket") else "File"


class Descriptors(Part):
    """``fds`` of a network: they come beside the request (SCM_RIGHTS); numbers in it mean nothing, as there."""

    field = "fds"
    keys = ("fd",)
    schema = {**array({"type": "integer"}), "description": "ignored: pass descriptors by SCM_RIGHTS"}

    def read(self, value: Any, where: str) -> dict[str, Any]:
        return {}

    def show(self, values: dict[str, Any]) -> Any:
        return [-1] * len(values["fd"]) if values.get("fd") else None


class Form:
    """A set of options as a JSON object.

    name     the schema's name in the document
    options  classes whose options it has, the type's own first
    rename   JSON field -> option, where they differ
    words    fields whose values are CamelCase in JSON, with values that mean "leave it out"
    parts    fields that stand for several options
    extras   fields of Cloud Hypervisor's without an option: (schema, the values that change nothing)
    aliases  old names of fields
    hidden   options that the JSON does not have
    """

    def __init__(
        self,
        name: str,
        *options: type[Options],
        rename: dict[str, str] | None = None,
        words: dict[str, tuple[str, ...]] | None = None,
        parts: Iterable[Part] = (),
        extras: dict[str, tuple[Schema, Sequence[Any]]] | None = None,
        aliases: dict[str, str] | None = None,
        hidden: Iterable[str] = (),
    ) -> None:
        self.name, self.aliases = name, aliases or {}
        self.options: dict[str, Option[Any]] = {}
        for cls in options:
            for key, option in cls._options.items():
                self.options.setdefault(key, option)
        self.rename = {field: key for field, key in (rename or {}).items() if key in self.options}
        self.words = words or {}
        self.parts = {part.field: part for part in parts if any(key in self.options for key in part.keys)}
        taken = {key for part in self.parts.values() for key in part.keys} | {*hidden}
        names = {key: field for field, key in self.rename.items()}
        #: JSON field -> option, for those that are one
        self.fields = {names.get(key, key): key for key in self.options if key not in taken}
        self.extras = {
            field: extra
            for field, extra in (extras or {}).items()
            if field not in self.fields and field not in self.parts
        }

    def schema(self) -> Schema:
        """JSON Schema of the object."""
        properties: dict[str, Schema] = {}
        required = []
        for field, key in self.fields.items():
            option = self.options[key]
            properties[field] = self._field_schema(field, option)
            if option.default is REQUIRED:
                required.append(field)
        for field, part in self.parts.items():
            properties[field] = part.schema if part.required else nullable(part.schema)
            if part.required:
                required.append(field)
        for field, (schema, harmless) in self.extras.items():
            properties[field] = nullable(schema)
            default = next((value for value in harmless if value is not None), None)
            if default not in (None, []) and "default" not in schema:
                properties[field]["default"] = default
        for field, name in self.aliases.items():
            properties[field] = {**properties[name], "deprecated": True}
        result: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
        return {**result, "required": required} if required else result

    def _field_schema(self, field: str, option: Option[Any]) -> Schema:
        schema = option.schema()
        if field in self.words and option.choices is not None:
            schema["enum"] = [*map(camel, option.choices), *self.words[field]]
            if isinstance(schema.get("default"), str):
                schema["default"] = camel(schema["default"])
        if option.min is not None and isinstance(option.default, int) and option.default < option.min:
            schema.pop("default", None)  # it stands for "not given"
        return schema if option.default is REQUIRED else nullable(schema)

    def read(self, value: dict[str, Any], where: str) -> dict[str, Any]:
        """Option values for an object that fits the schema. Raises UserError, NotServed."""
        found: dict[str, Any] = {}
        for field, item in value.items():
            if item is None:
                continue
            name, field = f"{where}.{field}", self.aliases.get(field, field)
            if field in self.parts:
                for key, option in self.parts[field].read(item, name).items():
                    found[key] = found[key] + option if isinstance(found.get(key), list) else option
            elif field in self.extras:
                if item not in self.extras[field][1]:
                    raise NotServed(f"{name}={item!r}")
            elif field in self.words and self.options[self.fields[field]].choices is not None:
                if item not in self.words[field]:
                    choices = self.options[self.fields[field]].choices or ()
                    found[self.fields[field]] = next(word for word in choices if camel(word) == item)
            else:
                found[self.fields[field]] = item
        if "mode" in self.parts and not found.keys() & {"mode", "file", "socket"}:
            raise UserError(f"{where}.{value['mode'].lower()}", "missing", f"it says which, for mode {value['mode']}")
        return found

    def show(self, values: dict[str, Any]) -> dict[str, Any]:
        """The JSON object for values of all options; what is None is left out."""
        found: dict[str, Any] = {}
        for field, key in self.fields.items():
            item = values.get(key)
            if item is not None:
                found[field] = camel(item) if field in self.words and isinstance(item, str) else item
        for field, part in self.parts.items():
            item = part.show(values)
            if item is not None:
                found[field] = item
        for field, (_, harmless) in self.extras.items():
            default = next((value for value in harmless if value is not None), None)
            if default not in (None, []):
                found[field] = default
        return found
