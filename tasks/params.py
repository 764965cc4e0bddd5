"""params.yaml, read with DVC's own parser, and whether it is as it has to be."""

import json
import re
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

PARAMS = Path("params.yaml")
NAME = "[a-z][a-z0-9_]*"  # of a pipeline, a modality, a problem


def read() -> dict[str, Any]:
    """Return the content of params.yaml; `ValueError` names the line where it is no YAML, or says a key twice."""
    try:
        content = YAML(typ="safe", pure=True).load(PARAMS.read_text(encoding="utf-8"))
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}" if mark else "some line"
        words = str(getattr(error, "problem", None) or error).split("\n")[0]
        raise ValueError(f"{PARAMS}: {place}: {words}; mend the YAML there") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{PARAMS}: byte {error.start} is no UTF-8; save the file as UTF-8") from None
    except FileNotFoundError:
        raise ValueError(f"no {PARAMS} here; run this in the checkout's root") from None
    if not isinstance(content, dict):
        raise ValueError(f"{PARAMS}: it must hold `backends` and `pipelines`, got {shown(content)}")
    return content


def block(pipeline: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return a pipeline's block, once every block has a name and a workload: DVC reads them all."""
    if "pipelines" not in params:
        raise ValueError(f"{PARAMS}.pipelines: missing; add it")
    blocks = checked(dict[str, dict[str, Any]], params["pipelines"], f"{PARAMS}: pipelines")
    for name, found in blocks.items():
        where = f"{PARAMS}: pipelines.{name}"
        if not re.fullmatch(NAME, name):
            raise ValueError(f"{where}: a name is {NAME}: it names files, models and stages")
        for key in ("modality", "problem", "model"):
            if key not in found:
                refuse_wrong_names({name: None for name in found}, [*found, key], where, "section")
            if not re.fullmatch(NAME, checked(str, found[key], f"{where}.{key}")):
                raise ValueError(f"{where}.{key}: it names a module, {NAME}, got {shown(found[key])}")
    if pipeline not in blocks:
        raise ValueError(f"{PARAMS}: no pipeline '{pipeline}'; there are: {', '.join(blocks) or 'none'}")
    return dict(blocks[pipeline])


def refuse_wrong_names(given: dict[str, Any], names: list[str], where: str, kind: str = "knob") -> None:
    """Raise `ValueError` for a misspelt or a missing name."""
    for name in [name for name in given if name not in names]:
        raise ValueError(f"{where}.{name}: no such {kind}; there are: {', '.join(names)}")
    for name in [name for name in names if name not in given]:
        raise ValueError(f"{where}.{name}: missing; add it")


def checked(kind: Any, value: Any, where: str) -> Any:
    """Return a knob's value as its type; `ValueError` says where it is, what is wrong and what was given.

    Nothing is converted but a whole number to a float: '0.9' is a text, and `true` is no number.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value, allow_nan=False), strict=True)
    except (TypeError, RecursionError):
        raise ValueError(
            f"{where}: a date, a set or a key that is no text is of no use here, got {shown(value)}"
        ) from None
    except ValidationError as error:
        # a misspelt name comes before the gap that it left
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        place = ".".join([where, *map(str, first["loc"])])
        raise ValueError(f"{place}: {first['msg']}, got {shown(first['input'])}") from None
    except ValueError:
        raise ValueError(f"{where}: not a finite number somewhere in it, got {shown(value)}") from None


def shown(value: Any) -> str:
    """Return a value as people may want to see it: not all of it where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def distinct(values: list[Any]) -> list[Any]:
    """Return a list that names nothing twice; for use as a validator."""
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise ValueError(f"{twice[0]!r} is there twice")
    return values
