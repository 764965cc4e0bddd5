"""params.yaml, and whether it is as it has to be."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from tasks.document import at, load, shown

PARAMS = Path("params.yaml")
NAME = "[a-z][a-z0-9_]{0,63}"  # of a pipeline, a modality, a problem, a backend
KEYS = ("modality", "problem", "model")  # what every pipeline says first
WORDS = {"array": "list", "an object": "a group of keys", "Field required": "Input should have more values"}


@dataclass(frozen=True)
class AtMost:
    """Marks a knob, or a list of them, that may not exceed a knob of another stage."""

    stage: str
    knob: str


def read() -> dict[str, Any]:
    """Return the content of params.yaml; `ValueError` names the line or the key that is wrong."""
    return load(PARAMS, "`backends` and `pipelines`")


def block(pipeline: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return a pipeline's block, once every block has a name and a workload: DVC reads them all."""
    if "pipelines" not in params:
        raise ValueError(f"{PARAMS}: pipelines: missing; add it")
    blocks = checked(dict[str, Any], params["pipelines"], f"{PARAMS}: pipelines")
    for name, content in blocks.items():
        where = at(f"{PARAMS}: pipelines", name)
        refuse_no_name(name, where)
        found = checked(dict[str, Any], content, where)
        for key in KEYS:
            if key not in found:
                near = [name for name in found if name not in KEYS and get_close_matches(key, [name.lower()])]
                raise ValueError(f"{where}.{key}: missing; add it" + (f", or mend {shown(near[0])}" if near else ""))
            refuse_no_name(checked(str, found[key], f"{where}.{key}"), f"{where}.{key}")
    if pipeline not in blocks:
        raise ValueError(
            f"{PARAMS}: pipelines: no pipeline {shown(pipeline)}; there are: {', '.join(blocks) or 'none'}"
        )
    return dict(blocks[pipeline])


def refuse_no_name(name: str, where: str) -> None:
    """Raise `ValueError` for what can't name a file, a module, a stage and a model."""
    if not re.fullmatch(NAME, name):
        raise ValueError(f"{where}: a name is 1 to 64 of a-z, 0-9 and _, a letter first, got {shown(name)}")


def refuse_wrong_names(
    given: dict[str, Any], names: list[str], where: str, kind: str = "knob", optional: Sequence[str] = ()
) -> None:
    """Raise `ValueError` for a misspelt or a missing name."""
    for name in [name for name in given if name not in names]:
        raise ValueError(f"{at(where, name)}: no such {kind}; there are: {', '.join(names)}")
    for name in [name for name in names if name not in given and name not in optional]:
        raise ValueError(f"{at(where, name)}: missing; add it")


def checked(kind: Any, value: Any, where: str) -> Any:
    """Return a knob's value as its type; `ValueError` says where it is, what is wrong and what was given.

    Nothing is converted but a whole number to a float: '0.9' is a text, and `true` is no number.
    """
    refuse_lookalikes(kind, value, where)
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        # of a choice between types each has its complaint: those that go deepest into what was given
        errors = [(reached(value, each["loc"]), each) for each in error.errors()]
        deepest = max((keys for keys, _ in errors), key=len)
        found = [each for keys, each in errors if keys == deepest]
    first, *others = dict.fromkeys(each["msg"].removeprefix("Value error, ") for each in found)
    said = " or ".join([first, *(other.removeprefix("Input should be ") for other in others)])
    for theirs, ours in WORDS.items():
        said = said.replace(theirs, ours)
    if found[0]["type"] != "value_error":  # our own validators show the value themselves
        said += f", got {shown(found[0]['input'])}"
    for key in deepest:
        where = at(where, str(key))
    raise ValueError(f"{where}: {said}")


def refuse_lookalikes(kind: Any, value: Any, where: str) -> None:
    """Raise `ValueError` for what pydantic would take, or refuse without a remedy, in a group of knobs at any depth.

    That is a name that the group does not have, an empty value, and `true` or 1.0 in the place of a 1.
    """
    if is_literal(kind):
        alike = [each for each in get_args(kind) if each == value]
        if alike and type(alike[0]) is not type(value):
            raise ValueError(f"{where}: Input should be {' or '.join(map(repr, get_args(kind)))}, got {shown(value)}")
        return
    fields = getattr(kind, "model_fields", {}) if isinstance(value, dict) else {}
    if fields:
        optional = [name for name, field in fields.items() if not field.is_required()]
        refuse_wrong_names(value, list(fields), where, optional=optional)
    for name, field in fields.items():
        if not field.is_required() and name in value and value[name] is None:
            raise ValueError(f"{where}.{name}: there is nothing behind it; give it a value or take it out")
        refuse_lookalikes(field.annotation, value.get(name), f"{where}.{name}")
    for each in get_args(kind):
        if not names_another(each, value):
            refuse_lookalikes(each, value, where)


def names_another(kind: Any, value: Any) -> bool:
    """Tell whether a value names, in a field that has one value only, another of several groups than this one."""
    fields = getattr(kind, "model_fields", {}) if isinstance(value, dict) else {}
    choices = {name: get_args(field.annotation) for name, field in fields.items() if is_literal(field.annotation)}
    return any(len(allowed) == 1 and name in value and value[name] not in allowed for name, allowed in choices.items())


def is_literal(kind: Any) -> bool:
    """Tell whether a type is a choice between values."""
    return get_origin(kind) is Literal


def reached(value: Any, location: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the keys of a pydantic location that lead into a value; the rest are names of types."""
    keys = []
    for key in location:
        if (isinstance(value, dict) and key in value) or (isinstance(value, list) and key in range(len(value))):
            value = value[key]
            keys.append(key)
    return tuple(keys)


def distinct(values: list[Any]) -> list[Any]:
    """Return a list that names nothing twice; for use as a validator."""
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise ValueError(f"{shown(twice[0])} is there twice; take one out")
    return values


def file_name(name: str, most: int = 60) -> str:
    """Return a text of so many characters that can name a file or a folder; for use as a validator."""
    plain = name.isprintable() and name == name.strip() and not set(name) & set("/\\") and not name.startswith(".")
    if not plain or not 0 < len(name) <= most:  # a name has 255 bytes at most, a character up to four
        raise ValueError(
            f"{shown(name)} can't name a file or folder; write 1 to {most} characters, no / or \\, no dot in front, "
            "no blank around"
        )
    return name
