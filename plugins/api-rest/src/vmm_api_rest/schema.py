# SPDX-License-Identifier: Apache-2.0
"""Checking a value with the JSON Schema that is served for it, so that both say the same.

As much of JSON Schema 2020-12 as our own schemas use: type, enum, anyOf, $ref, properties, required,
additionalProperties, items, minItems, maxItems, minimum, maximum, minLength, maxLength, pattern.
"""

from __future__ import annotations

import re

from vmmcore.errors import UserError
from vmmcore.front.options import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Schema = dict[str, Any]

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "null": (type(None),),
    "integer": (int,), "number": (int, float),
}  # fmt: skip
REF = "#/components/schemas/"


def check(value: Any, schema: Schema, where: str, components: dict[str, Schema]) -> None:
    """Raise UserError, which names the field by `where`, unless the value is as the schema says."""
    if "$ref" in schema:
        check(value, components[schema["$ref"].removeprefix(REF)], where, components)
        return
    if "anyOf" in schema:
        _check_any(value, schema["anyOf"], where, components)
        return
    kinds = schema.get("type")
    if kinds is not None:
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if not any(_is(value, kind) for kind in kinds):
            raise UserError(where, f"expected {' or '.join(kinds)}, not {_shown(value)}")
    if "enum" in schema and not any(_same(value, choice) for choice in schema["enum"]):
        raise UserError(where, f"{_shown(value)} is not one of {', '.join(map(str, schema['enum']))}")
    if isinstance(value, dict):
        _check_object(value, schema, where, components)
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            raise UserError(where, f"a list of {len(value)} is too short or too long")
        for index, item in enumerate(value):
            check(item, schema.get("items", {}), f"{where}[{index}]", components)
    elif isinstance(value, str):
        if any("\ud800" <= char < "\ue000" for char in value):
            raise UserError(where, "holds half a surrogate pair, which is no text")
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            raise UserError(where, "is empty" if not value else f"{len(value)} characters are too few or too many")
        if "pattern" in schema and not re.search(schema["pattern"], value):
            raise UserError(where, f"{_shown(value)} is not of the form {schema['pattern']}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if value < schema.get("minimum", value):
            raise UserError(where, f"{value} is too small", f"the least is {schema['minimum']}")
        if value > schema.get("maximum", value):
            raise UserError(where, f"{value} is too large", f"the most is {schema['maximum']}")


def _check_any(value: Any, schemas: list[Schema], where: str, components: dict[str, Schema]) -> None:
    errors = []
    for schema in schemas:
        try:
            check(value, schema, where, components)
            return
        except UserError as error:
            errors.append((schema, error))
    # The one whose type is right says best what is wrong.
    for schema, found in errors:
        if "$ref" in schema or _is(value, schema.get("type", "")):
            raise found
    kinds = dict.fromkeys(str(schema.get("type", "object")) for schema in schemas)
    raise UserError(where, f"expected {' or '.join(kinds)}, not {_shown(value)}")


def _check_object(value: dict[str, Any], schema: Schema, where: str, components: dict[str, Schema]) -> None:
    properties = schema.get("properties", {})
    more = schema.get("additionalProperties", True)
    for key in schema.get("required", ()):
        if value.get(key) is None:
            raise UserError(f"{where}.{key}".lstrip("."), "missing", "it must be given")
    for key, item in value.items():
        name = f"{where}.{key}".lstrip(".")
        if key in properties:
            check(item, properties[key], name, components)
        elif more is False:
            close = nearest(key, list(properties))
            mend = f"did you mean {close}?" if close else f"it takes {', '.join(sorted(properties)) or 'nothing'}"
            raise UserError(where or "the request", f"unknown field '{key[:40]}'", mend)
        elif more is not True:
            check(item, more, name, components)


def _is(value: Any, kind: str) -> bool:
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()  # JSON Schema 2020-12 §6.1.1: 1.0 is an integer
    return isinstance(value, _TYPES.get(kind, ())) and not (isinstance(value, bool) and kind in ("integer", "number"))


def _same(value: Any, choice: Any) -> bool:
    return type(value) is type(choice) and bool(value == choice)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def nullable(schema: Schema) -> Schema:
    """The same, or null: what is left out may also be null, as serializers write it."""
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    if "type" not in schema:
        return schema
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    result = {**schema, "type": [*kinds, "null"]}
    if "enum" in schema:
        result["enum"] = [*schema["enum"], None]
    return result


def ref(name: str) -> Schema:
    """A reference to a named schema of the document."""
    return {"$ref": REF + name}


def array(items: Schema) -> Schema:
    return {"type": "array", "items": items}
