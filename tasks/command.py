"""Turn a stage function into a command: wiring from the command line, knobs from its own section of params.yaml.

python -m tasks.command STAGE PIPELINE --wiring path ...
"""

import argparse
import importlib
import inspect
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, ValidationError, validate_call

from tasks import settings

PARAMS = Path("params.yaml")
SECONDS = "seconds of its own: "  # what the flow counts as the stage's computing, imports included


def main(argv: list[str]) -> int:
    """Run one stage; exit code 1 with one readable line on standard error where its input is wrong."""
    settings.quiet()
    started = time.monotonic()
    try:
        function, arguments = bind(argv, yaml.safe_load(PARAMS.read_text()))
        run(function, arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{SECONDS}{time.monotonic() - started:.2f}")
    return 0


def bind(argv: list[str], params: dict[str, Any]) -> tuple[Callable[..., object], dict[str, Any]]:
    """Return a stage's function and its arguments; `ValueError` names what is unknown."""
    parser = argparse.ArgumentParser(prog="python -m tasks.command", description="Run one stage of a pipeline.")
    parser.add_argument("stage")
    parser.add_argument("pipeline")
    head = parser.parse_args(argv[:2])
    block = params["pipelines"].get(head.pipeline)
    if block is None:
        known = ", ".join(params["pipelines"])
        raise ValueError(f"params.yaml: no pipeline '{head.pipeline}'; there are: {known}")
    function = getattr(importlib.import_module(f"tasks.{head.stage}"), head.stage)
    wiring, knobs = signature(function)
    facts = {
        "pipeline": head.pipeline,
        "workload": f"{block['modality']}/{block['problem']}",
        "backends": params["backends"],
        "params": block,
    }
    arguments = {name: facts[name] for name in wiring if name in facts}
    arguments |= paths(argv[2:], [name for name in wiring if name not in facts])
    section = block.get(head.stage, {})
    refuse_wrong_names(section, knobs, f"params.yaml: pipelines.{head.pipeline}.{head.stage}")
    return function, arguments | section


def signature(function: Callable[..., object]) -> tuple[list[str], list[str]]:
    """Return the names of a stage's wiring (before `*`) and of its knobs (after it)."""
    parameters = inspect.signature(function).parameters.values()
    wiring = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return wiring, [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def paths(argv: list[str], names: list[str]) -> dict[str, Any]:
    """Parse `--name value` for each wiring name; all of them are required."""
    parser = argparse.ArgumentParser(prog="python -m tasks.command")
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, required=True)
    return vars(parser.parse_args(argv))


def refuse_wrong_names(section: dict[str, Any], knobs: list[str], where: str) -> None:
    """Raise `ValueError` for a misspelt or a missing knob."""
    for name in section.keys() - set(knobs):
        raise ValueError(f"{where}.{name}: no such knob; there are: {', '.join(knobs)}")
    for name in set(knobs) - section.keys():
        raise ValueError(f"{where}.{name}: missing; add it")


def run(function: Callable[..., object], arguments: dict[str, Any]) -> None:
    """Call a stage with validated arguments; `ValueError` names the knob, its value and what is wrong with it."""
    try:
        validate_call(config=ConfigDict(arbitrary_types_allowed=True))(function)(**arguments)
    except ValidationError as error:
        if error.title != function.__name__:
            raise
        first = error.errors()[0]
        where = ".".join([function.__name__, *map(str, first["loc"])])
        raise ValueError(f"params.yaml: {where}: {first['msg']}, got {first['input']!r}") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
