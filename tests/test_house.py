"""The house rules that a machine can check."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.miniature import ROOT

SOURCES = sorted(path for folder in ("tasks", "flows", "infra") for path in (ROOT / folder).rglob("*.py"))
INNER = {"tasks": ("flows",), "tasks/backends": ("flows", "tasks.")}
INNER |= {f"tasks/{folder}": ("flows", "tasks.backends") for folder in ("modalities", "problems")}


def tool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True)


def test_ruff_finds_nothing() -> None:
    assert tool("ruff", "check", ".").stdout.strip().endswith("All checks passed!")
    assert tool("ruff", "format", "--check", ".").returncode == 0


def test_mypy_finds_nothing() -> None:
    done = tool("mypy")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_noun_or_verb(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 200
    assert path.stem not in {"utils", "helpers", "common", "base", "manager"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            body = node.end_lineno - node.body[0].lineno + 1
            assert body <= 50, f"{path.name}: {node.name} has {body} lines"


@pytest.mark.parametrize("path", [p for p in SOURCES if "tasks" in p.parts], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_inner_does_not_know_the_outer(path: Path) -> None:
    imported = [n.module or "" for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
    imported += [a.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import) for a in n.names]
    for folder, forbidden in INNER.items():
        if str(path.relative_to(ROOT)).startswith(folder):
            assert not [name for name in imported if name.startswith(forbidden) or name.split(".")[0] == "prefect"]


@pytest.mark.parametrize("module", ["tasks.command", "tasks.prepare", "tasks.select", "tasks.build", "flows.cli"])
def test_importing_is_cheap(module: str) -> None:
    heavy = {"torch", "mlflow", "prefect", "nvidia.dali", "pytorch_lightning", "onnxruntime", "matplotlib", "dvc"}
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.split())
    assert module in loaded and not loaded & heavy


def test_the_lock_names_no_address_and_no_local_build() -> None:
    for lock in (ROOT / "requirements.lock", ROOT / "infra" / "serving" / "requirements.lock"):
        lines = lock.read_text().splitlines()
        assert all("==" in line and "://" not in line and "+" not in line for line in lines if line)


@pytest.mark.parametrize(
    ("package", "below"), [("fastapi", (0, 151)), ("sqlalchemy", (2, 1)), ("prefect", (3, 9)), ("torch", (2, 14))]
)
def test_pins_that_keep_prefect_alive(package: str, below: tuple[int, int]) -> None:
    line = next(
        line for line in (ROOT / "requirements.lock").read_text().splitlines() if line.startswith(f"{package}==")
    )
    version = tuple(int(part) for part in line.split("==")[1].split(".")[:2])
    assert version < below


def test_make_lets_python_keep_its_bytecode() -> None:
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    words = ["make", "--eval", "shown: ; @env", "shown"]
    said = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert "PATH=" in said and "PYTHONDONTWRITEBYTECODE" not in said
