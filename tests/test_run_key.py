"""The run key, and what else a run says of where it comes from."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks import mirror
from tasks import record as record_module
from tasks.record import digests, run_key
from tests.finished import PARAMS, inputs, write


def test_the_run_key_names_the_inputs_and_nothing_else(tmp_path: Path) -> None:
    asked = inputs(tmp_path / "toy")
    deps = {name: path for name, path in asked.items() if isinstance(path, Path) and name != "out"}

    def key(**changed: Any) -> str:
        return run_key(digests(deps), changed.get("params", PARAMS), changed.get("backends", ["onnxruntime"]))

    first = key()
    write(tmp_path / "toy/out.json", "not an input")
    assert key() == first
    assert key(params={**PARAMS, "train": {"target": 0.8, "seed": 1}}) != first
    assert key(backends=["openvino"]) != first
    for path in deps.values():
        file = path if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())[0]
        kept = file.read_bytes()
        file.write_bytes(kept + b" ")
        assert key() != first, f"{file} is an input"
        file.write_bytes(kept)
    shutil.copytree(tmp_path / "toy", tmp_path / "elsewhere")
    deps = {name: tmp_path / "elsewhere" / path.relative_to(tmp_path / "toy") for name, path in deps.items()}
    assert key() == first, "where the inputs lie does not matter"


def test_the_commit_is_unknown_without_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert record_module.git_commit() == "unknown"
    monkeypatch.setenv("PATH", "")
    assert record_module.git_commit() == "unknown"


def test_an_address_is_written_without_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert mirror.without_credentials("https://user:secret@mlflow:5000/x") == "https://mlflow:5000/x"
    assert mirror.without_credentials(f"sqlite:///{tmp_path}/.state/mlflow.db") == "sqlite:///.state/mlflow.db"
