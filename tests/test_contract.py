"""The contract between dvc.yaml, params.yaml and the stages: names, knobs, wiring, code lists, order."""

import ast
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.command import knobs, signature
from tasks.workload import FOLDERS
from tests.miniature import ROOT

GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
BLOCK = PARAMS["pipelines"]["fashion"]
STAGES: dict[str, dict[str, Any]] = {name: entry.get("do", entry) for name, entry in GRAPH["stages"].items()}
FLOWS_KNOBS = {"deploy", "monitor"}  # sections read by a flow, not by a stage
# Code that every stage uses and that shapes no output: finding modules, writing whole files, drawing.
NEUTRAL = {"tasks/command.py", "tasks/settings.py", "tasks/atomic.py", "tasks/workload.py", "tasks/pictures.py"}
NEUTRAL |= {
    "tasks/ranges.py",
    "tasks/__init__.py",
    "tasks/backends/__init__.py",
    "tasks/params.py",
    "tasks/document.py",
    "tasks/guard.py",
}
COPIED = {"record": {"infra/mlflow/model.py"}}  # as files, one by one
RUN_ENGINES = {"evaluate", "measure", "reference"}
MODALITY_PARTS = FOLDERS["modalities"]
FACTS = {"pipeline", "workload", "backends", "params"}


def filled(text: str, backend: str = "onnxruntime") -> str:
    """Fill dvc.yaml's placeholders in for the shipped pipeline."""
    values = {"key": "fashion", "item.pipeline": "fashion", "item.backend": backend, "item.modality": BLOCK["modality"]}
    values |= {"item.problem": BLOCK["problem"], "item.model": BLOCK["model"]}
    return re.sub(r"\$\{(.*?)\}", lambda match: values[match[1]], text)


def paths(stage: str, *kinds: str) -> list[str]:
    """Return the declared paths of some kinds: deps, outs, metrics."""
    found = []
    for kind in kinds:
        found += [next(iter(entry)) if isinstance(entry, dict) else entry for entry in STAGES[stage].get(kind, [])]
    return [filled(path) for path in found]


def function(stage: str) -> Any:
    """Return a stage's function."""
    return getattr(importlib.import_module(f"tasks.{stage}"), stage)


def words(stage: str) -> list[str]:
    """Return a stage's command line, word by word."""
    return shlex.split(filled(STAGES[stage]["cmd"]))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_one_name(stage: str) -> None:
    assert words(stage)[:4] == ["python", "-m", "tasks.command", stage]
    assert function(stage).__module__ == f"tasks.{stage}"


@pytest.mark.parametrize("stage", STAGES)
def test_knobs_are_the_section_and_have_no_default(stage: str) -> None:
    assert knobs(function(stage), "fashion", BLOCK) is not None  # every one is there, and none besides
    defaults = function(stage).__kwdefaults__
    assert not defaults, f"{stage}: a knob's value has one home, params.yaml"


def test_every_section_belongs_to_a_stage_or_a_flow() -> None:
    assert set(BLOCK) - {"modality", "problem", "model"} <= set(STAGES) | FLOWS_KNOBS


@pytest.mark.parametrize("stage", STAGES)
def test_every_path_of_a_command_is_declared(stage: str) -> None:
    wiring, _ = signature(function(stage))
    line = words(stage)[5:]
    given = {
        name.removeprefix("--").replace("-", "_"): value for name, value in zip(line[::2], line[1::2], strict=True)
    }
    assert set(given) == set(wiring) - FACTS
    declared = set(paths(stage, "deps", "outs", "plots", "metrics"))
    assert {value for value in given.values() if "/" in value} <= declared


@pytest.mark.parametrize("stage", STAGES)
def test_declared_params_are_those_handed_over(stage: str) -> None:
    wiring, names = signature(function(stage))
    declared = {filled(name) for name in STAGES[stage].get("params", [])}
    expected = {f"pipelines.fashion.{stage}"} if names else set()
    expected |= {"backends"} if "backends" in wiring else set()
    expected |= {"pipelines.fashion"} if "params" in wiring else set()
    assert declared == expected


@pytest.mark.parametrize("stage", STAGES)
def test_data_comes_from_a_stage_written_upstream_first(stage: str) -> None:
    order = list(STAGES)
    upstream = [out for name in order[: order.index(stage)] for out in paths(name, "outs", "plots", "metrics")]
    for path in paths(stage, "deps"):
        if path.startswith(("data/", "models/", "metrics/")) and not path.startswith("data/incoming/"):
            assert any(out == path or out.startswith(f"{path}/") for out in upstream), f"{stage}: who writes {path}?"


@pytest.mark.parametrize("stage", STAGES)
def test_the_list_of_code_is_complete_and_no_longer(stage: str) -> None:
    listed = {path for path in paths(stage, "deps") if path.endswith(".py")}
    expected = closure(f"tasks/{stage}.py")
    if "backend" in signature(function(stage))[0]:  # one of them
        expected |= behind_backends() | {"tasks/backends/onnxruntime.py"}
    if stage in RUN_ENGINES:  # of any of them
        expected |= behind_backends()
    if stage == "train":  # an import may stand in its place, and needs its code, too
        expected |= closure("tasks/imported.py") - {"tasks/imported.py"}
    if "tasks/networks/__init__.py" in expected:  # a network is found by name
        assert "tasks/networks" in paths(stage, "deps")
    folders = tuple(f"{path}/" for path in paths(stage, "deps") if path.startswith(("tasks/modalities/", "tasks/net")))
    covered = {path for path in expected if path.startswith(folders)} - listed
    assert listed == (expected | COPIED.get(stage, set())) - covered


def behind_backends() -> set[str]:
    """Return the files that some backend's code reaches, the backends themselves aside."""
    files = {f"tasks/backends/{path.name}" for path in (ROOT / "tasks" / "backends").glob("[a-z]*.py")}
    return {path for file in files for path in closure(file)} - files


def closure(start: str) -> set[str]:
    """Return the project's files that a stage's code reaches, found by reading imports and `part(...)` calls."""
    found: set[str] = set()
    queue = [start]
    while queue:
        path = queue.pop()
        if path in found or path in NEUTRAL:
            continue
        found.add(path)
        queue += reached(ast.parse((ROOT / path).read_text()))
    return found


def reached(tree: ast.AST) -> list[str]:
    """Return the files that a module names: in imports, in `part(workload, "x")` and in `Typed("x", ...)`."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tasks"):
            names += [f"{node.module}.{alias.name}" for alias in node.names] + [node.module or ""]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("part", "Typed"):
            role = ast.literal_eval(node.args[1 if node.func.id == "part" else 0])
            names.append(f"tasks.{'modalities.image' if role in MODALITY_PARTS else 'problems.classification'}.{role}")
    files = [name.replace(".", "/") + ".py" for name in names]
    return [file for file in files if (ROOT / file).is_file()]


def test_the_fingerprint_of_a_training_covers_the_code_that_dvc_watches() -> None:
    from tasks.train import code

    watched = {str(path.relative_to(ROOT)) for path in code("image/classification", "small")}
    networks = {"tasks/networks/__init__.py", "tasks/networks/layers.py", "tasks/networks/small.py"}
    assert watched | networks == closure("tasks/train.py") | networks


def test_every_output_is_ignored_by_git_but_the_portable_metrics() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for stage in STAGES:
        for path in paths(stage, "outs", "plots"):
            assert any(path.startswith(line.strip("/") + "/") for line in ignored if line.startswith("/"))
    assert not any(line.startswith("/metrics") for line in ignored)


def test_backends_are_files_with_the_same_offer() -> None:
    from tasks.backends import backend

    for path in (ROOT / "tasks" / "backends").glob("[a-z]*.py"):
        module = backend(path.stem)
        assert module.DEVICE in {"cpu", "gpu"} and module.DIALECT in {"cpu", "tensorrt"} and module.SUFFIX
        assert set(module.PRECISIONS) <= {"fp32", "fp16", "int8"} and module.DISTRIBUTION
        assert all(callable(getattr(module, name)) for name in ("build", "load", "missing", "objections"))
        if module.SERVED:  # its file is copied to the server, and has to do alone
            assert closure(f"tasks/backends/{path.name}") == {f"tasks/backends/{path.name}"}
    assert all(backend(name) for name in PARAMS["backends"])
    assert Path(ROOT, "LICENSE").exists()
