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
from typing import Any, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from tasks import backends, settings

PARAMS = Path("params.yaml")
NAME = "[a-z][a-z0-9_]*"  # of a pipeline
SECONDS = "seconds of its own: "  # what the flow counts as the stage's computing, imports included


def main(argv: list[str]) -> int:
    """Run one stage; exit code 1 with one readable line on standard error where its input is wrong."""
    settings.quiet()
    started = time.monotonic()
    try:
        function, arguments = bind(argv, yaml.safe_load(PARAMS.read_text()))
        function(**arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
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
        "workload": workload(section),
        "backends": params["backends"],
        "params": section,
    }
    arguments = {name: facts[name] for name in wiring if name in facts}
    arguments |= paths(argv[2:], function, [name for name in wiring if name not in facts])
    return function, arguments | knobs(function, head.pipeline, section)


def check(pipeline: str, stages: list[str], others: list[str], params: dict[str, Any]) -> None:
    """Raise `ValueError` for the first thing in params.yaml that a stage would refuse, before any stage runs.

    `others` are sections that belong to no stage.
    """
    found = block(pipeline, params)
    refuse_wrong_names(params, ["backends", "pipelines"], "params.yaml", "key")
    for name in checked(list[str], params["backends"], "params.yaml: backends"):
        backends.backend(name)
    sections = ["modality", "problem", *others, *(stage for stage in stages if signature(function_of(stage))[1])]
    refuse_wrong_names(found, sections, f"params.yaml: pipelines.{pipeline}", "section")
    if not (Path(__file__).parent / "workloads" / workload(found) / "network.py").exists():
        raise ValueError(f"params.yaml: pipelines.{pipeline}: no workload '{workload(found)}'")
    for stage in stages:
        given = knobs(function_of(stage), pipeline, found)
        typed = getattr(importlib.import_module(f"tasks.{stage}"), "typed", None)  # knobs that the workload defines
        if typed is not None:
            typed(workload(found), given, f"params.yaml: pipelines.{pipeline}.{stage}")


def block(pipeline: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return a pipeline's block of params.yaml; `ValueError` lists those there are."""
    blocks = checked(dict[str, dict[str, Any]], params.get("pipelines"), "params.yaml: pipelines")
    if pipeline not in blocks:
        raise ValueError(f"params.yaml: no pipeline '{pipeline}'; there are: {', '.join(blocks)}")
    if not re.fullmatch(NAME, pipeline):
        raise ValueError(f"params.yaml: pipelines.{pipeline}: a name is {NAME}: it names files, models and stages")
    return dict(blocks[pipeline])


def workload(section: dict[str, Any]) -> str:
    """Return the workload of a block: `image/classification`."""
    return f"{section['modality']}/{section['problem']}"


def function_of(stage: str) -> Callable[..., object]:
    """Return a stage's function: it bears its module's name."""
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
    where = f"params.yaml: pipelines.{pipeline}.{stage}"
    given = checked(dict[str, Any], section.get(stage, {}), where)
    _, names = signature(function)
    refuse_wrong_names(given, names, where)
    hints = get_type_hints(function, include_extras=True)
    return {name: checked(hints[name], given[name], f"{where}.{name}") for name in names}


def refuse_wrong_names(given: dict[str, Any], names: list[str], where: str, kind: str = "knob") -> None:
    """Raise `ValueError` for a misspelt or a missing name."""
    for name in given.keys() - set(names):
        raise ValueError(f"{where}.{name}: no such {kind}; there are: {', '.join(names)}")
    for name in set(names) - given.keys():
        raise ValueError(f"{where}.{name}: missing; add it")


def checked(kind: Any, value: Any, where: str) -> Any:
    """Return a knob's value as its type; `ValueError` says where it is, what is wrong and what was given."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        # a misspelt name comes before the gap that it left
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        place = ".".join([where, *map(str, first["loc"])])
        raise ValueError(f"{place}: {first['msg']}, got {first['input']!r}") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
