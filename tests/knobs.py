"""What the annotations of the stages say of a knob, read without the code that the product reads them with."""

import json
import math
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from flows import drift, gate, replicas
from tasks import workload
from tasks.backends import backend, names
from tasks.command import Backends, function_of
from tasks.workload import Typed

BLOCK = ("pipelines", "fashion")
WORKLOAD = "image/classification"
FLOWS = {"deploy": gate.Knobs, "monitor": drift.Knobs}  # sections that no stage reads
Path = tuple[str | int, ...]


def hint(path: Path) -> Any:
    """Return the annotation of a knob, or of a place within one: `pipelines.fashion.train.target`."""
    if path[0] == "backends":
        return inside(Backends, path[1:])
    if path[0] == "serving":
        return inside(replicas.Knobs, path[1:])
    stage, *rest = path[len(BLOCK) :]
    if (stage, *rest[:1]) == ("build", "options"):
        kinds = {name: backend(name).Options for name in names() if hasattr(backend(name), "Options")}  # type: ignore[attr-defined]
        return inside(kinds[str(rest[1])], rest[2:]) if rest[1:] else group(kinds)
    if stage in FLOWS:
        return inside(FLOWS[str(stage)], rest)
    hints = get_type_hints(function_of(str(stage)), include_extras=True)
    typed = {name: mark for name, kind in hints.items() for mark in marks(kind) if isinstance(mark, Typed)}
    hints |= {name: getattr(workload.part(WORKLOAD, mark.part), mark.name) for name, mark in typed.items()}
    whole = [name for name, mark in typed.items() if mark.whole]
    return inside(hints[whole[0]], rest) if whole else inside(hints[str(rest[0])], rest[1:])


def group(kinds: dict[str, Any]) -> Any:
    """Return a group of these members and no other, none of which has to be there."""
    made = TypedDict("made", kinds, total=False)  # type: ignore[misc]
    made.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return made


def inside(kind: Any, path: Any) -> Any:
    """Return the annotation of a member."""
    if not path:
        return kind
    options = [each for each in (kind, *get_args(kind)) if hasattr(each, "model_fields")]
    if options:
        field = options[0].model_fields[path[0]]
        return inside(Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation, path[1:])
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return inside(get_args(plain)[-1 if get_origin(plain) is dict else 0], path[1:])


def marks(kind: Any) -> list[Any]:
    """Return what an annotation says beside its type."""
    found = []
    for each in getattr(kind, "__metadata__", ()):
        found += getattr(each, "metadata", [each])
    return found


def outside(path: Path) -> tuple[float, float]:
    """Return the highest number below what a knob takes, and the lowest above; `KeyError` where it has no bound."""
    if path[-1] == "channels":  # 1 or 3
        return 0, 2
    kind = hint(path)
    sides = ("ge", "gt", "le", "lt")
    bound = {side: getattr(mark, side) for mark in marks(kind) for side in sides if hasattr(mark, side)}
    whole = get_args(kind)[0] is int
    below = bound["gt"] if "gt" in bound else bound["ge"] - 1 if whole else math.nextafter(bound["ge"], -math.inf)
    above = bound["lt"] if "lt" in bound else bound["le"] + 1 if whole else math.nextafter(bound["le"], math.inf)
    return below, above


def unlawful(before: Any, after: Any, path: Path) -> str | None:
    """Say why a knob's value is no legal edit of the shipped one; None where it is: of its kind, and as annotated."""
    if before == after and kinds(before) == kinds(after):
        return None
    if type_of(before) != type_of(after) or not kinds(after) <= kinds(before):
        return f"{path}: {kinds(after)} in the place of {kinds(before)}"
    try:
        TypeAdapter(hint(path)).validate_json(json.dumps(after, allow_nan=False), strict=True)
    except (ValidationError, ValueError, TypeError) as error:
        return f"{path}: {error}"
    return None


def kinds(value: Any) -> set[str]:
    """Return the types of all scalars in a value."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return {type_of(value)} if below is None else {kind for each in below for kind in kinds(each)}


def type_of(value: Any) -> str:
    """Return the name of a type; a number is a number, and `true` is none."""
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
