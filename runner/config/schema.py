"""The JSON schema of watches.yaml, for editors: `rolerunner schema`.

It is made of the keys that `runner.config.watches` declares, and says what each is for while one types.
"""

from __future__ import annotations

from runner.config.keys import Key, ListOf, Schema, Structure, Value
from runner.config.watches import WATCH


def _of_type(type: Value[object] | Structure | ListOf) -> dict[str, object]:
    if isinstance(type, Value):
        return dict(type.schema)
    if isinstance(type, ListOf):
        return {"type": "array", "items": _of_type(type.items)}
    required = [key.name for key in type.keys if key.required]
    return {
        "type": "object",
        "properties": {key.name: _of_key(key) for key in type.keys},
        **({"required": required} if required else {}),
        **type.rules,
        "additionalProperties": False,
    }


def _of_key(key: Key[object]) -> dict[str, object]:
    schema = _of_type(key.type)
    if key.shown_default is not None:
        schema["default"] = key.shown_default
    if key.help:
        schema["description"] = key.help
    return schema


WATCHES: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "watches.yaml",
    "description": "Which kinds are mapped to which Ansible roles and playbooks.",
    "type": "array",
    "minItems": 1,
    "items": _of_type(WATCH),
}
