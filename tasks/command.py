"""Turn a stage function into a command: wiring from the command line, knobs from its own section of params.yaml.

python -m tasks.command STAGE PIPELINE --wiring path ...
"""

import argparse
import importlib
import inspect
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import AfterValidator, Field

from tasks import backends, guard, settings, workload
from tasks.document import shown
from tasks.params import KEYS, NAME, PARAMS, AtMost, block, checked, distinct, read, refuse_no_name, refuse_wrong_names

SECONDS = "seconds of its own: "  # what the flow counts as the stage's computing, imports included
MODELS = ("train", "imported")  # what may stand in the place of the train stage
Backends = Annotated[list[str], Field(min_length=1), AfterValidator(distinct)]


def main(argv: list[str]) -> int:
    """Run one stage; exit code 1 with one readable line on standard error where input or machine are at fault."""
    settings.quiet()
    started = time.monotonic()
    try:
        function, arguments = bind(argv, read())
        with guard.guarded():
            function(**arguments)
    except (ValueError, OSError, MemoryError) as error:
        print(f"error: {guard.sentence(error)}", file=sys.stderr)
        return 1
    print(f"{SECONDS}{time.monotonic() - started:.2f}")
    return 0


def bind(argv: list[str], params: dict[str, Any]) -> tuple[Callable[..., object], dict[str, Any]]:
    """Return a stage's function and its arguments; `ValueError` names what is unknown or wrong."""
    parser = argparse.ArgumentParser(prog="python -m tasks.command", description="Run one stage of a pipeline.")
    parser.add_argument("stage")
    parser.add_argument("pipeline")
    head = parser.parse_args(argv[:2])
    section = block(head.pipeline, params)
    function = function_of(head.stage)
    wiring, _ = signature(function)
    facts = {
        "pipeline": head.pipeline,
        "workload": workload_of(section),
        "backends": params["backends"],
        "params": section,
    }
    arguments = {name: facts[name] for name in wiring if name in facts}
    arguments |= paths(argv[2:], function, [name for name in wiring if name not in facts])
    return function, arguments | knobs(function, head.pipeline, section)


def check(pipeline: str, stages: list[str], others: list[str], params: dict[str, Any]) -> None:
    """Raise `ValueError` for the first thing in params.yaml that a stage would refuse, before any stage runs.

    `stages` are those of dvc.yaml; `others` are sections that belong to no stage.
    """
    refuse_wrong_names(params, ["backends", "serving", "pipelines"], str(PARAMS), "key")
    for i, name in enumerate(checked(Backends, params["backends"], f"{PARAMS}: backends")):
        refuse_no_name(name, f"{PARAMS}: backends.{i}")
        backends.backend(name)
    found, where = block(pipeline, params), f"{PARAMS}: pipelines.{pipeline}"
    for key, known in {"modality": parts("modalities"), "problem": parts("problems"), "model": MODELS}.items():
        if found[key] not in known:
            raise ValueError(f"{where}.{key}: no {key} {shown(found[key])}; there are: {', '.join(known)}")
    if missing := workload.missing(workload_of(found)):
        raise ValueError(f"{where}: no workload '{workload_of(found)}': {missing} is not there; write it")
    functions = [function_of(found["model"] if stage == "train" else stage) for stage in stages]
    sections = [function.__name__ for function in functions if signature(function)[1]]
    refuse_wrong_names(found, [*KEYS, *others, *sections], where, "section")
    for function in functions:
        knobs(function, pipeline, found)
    for function in functions:
        refuse_too_large(function, found, where)
    for name in params["backends"]:
        if hasattr(backends.backend(name), "Options") and name not in found["build"]["options"]:
            raise ValueError(f"{where}.build.options.{name}: missing; add it, or take {name} out of backends")


def refuse_too_large(function: Callable[..., object], section: dict[str, Any], where: str) -> None:
    """Raise `ValueError` for a knob that exceeds one of another stage, which its annotation names."""
    for name, hint in get_type_hints(function, include_extras=True).items():
        for mark in [mark for mark in marks(hint) if isinstance(mark, AtMost)]:
            given, most = section[function.__name__][name], section[mark.stage][mark.knob]
            asked = max(given) if isinstance(given, list) else given
            if asked > most:
                raise ValueError(
                    f"{where}.{function.__name__}.{name}: Input should be at most {mark.stage}.{mark.knob}, which is "
                    f"{most}, got {asked}; lower it, or raise the other"
                )


def parts(folder: str) -> list[str]:
    """Return the names of the modalities or of the problems there are."""
    return sorted(path.name for path in Path(__file__).with_name(folder).iterdir() if re.fullmatch(NAME, path.name))


def workload_of(section: dict[str, Any]) -> str:
    """Return the workload of a block: `image/classification`."""
    return f"{section['modality']}/{section['problem']}"


def function_of(stage: str) -> Callable[..., object]:
    """Return a stage's function: it bears its module's name; `ValueError` where there is no such stage."""
    if not re.fullmatch(NAME, stage) or not Path(__file__).with_name(f"{stage}.py").exists():
        raise ValueError(f"no stage {shown(stage)}: there is no tasks/{stage}.py")
    function: Callable[..., object] = getattr(importlib.import_module(f"tasks.{stage}"), stage)
    return function


def signature(function: Callable[..., object]) -> tuple[list[str], list[str]]:
    """Return the names of a stage's wiring (before `*`) and of its knobs (after it)."""
    parameters = inspect.signature(function).parameters.values()
    wiring = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return wiring, [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def paths(argv: list[str], function: Callable[..., object], names: list[str]) -> dict[str, Any]:
    """Parse `--name value` for each wiring name; all of them are required."""
    hints = get_type_hints(function)
    parser = argparse.ArgumentParser(prog="python -m tasks.command")
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, type=hints[name], required=True)
    return vars(parser.parse_args(argv))


def knobs(function: Callable[..., object], pipeline: str, section: dict[str, Any]) -> dict[str, Any]:
    """Return a stage's knobs, each checked against its annotation; `ValueError` names the knob and what is wrong."""
    stage = function.__name__
    where = f"{PARAMS}: pipelines.{pipeline}.{stage}"
    given = checked(dict[str, Any], section.get(stage, {}), where)
    _, names = signature(function)
    hints = get_type_hints(function, include_extras=True)
    typed = {name: mark for name in names for mark in marks(hints[name]) if hasattr(mark, "type")}
    hints |= {name: mark.type(workload_of(section)) for name, mark in typed.items()}
    if any(getattr(mark, "whole", False) for mark in typed.values()):
        return {names[0]: checked(hints[names[0]], given, where)}
    refuse_wrong_names(given, names, where)
    return {name: checked(hints[name], given[name], f"{where}.{name}") for name in names}


def marks(hint: Any) -> tuple[Any, ...]:
    """Return what an annotation says beside its type."""
    return getattr(hint, "__metadata__", ())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
