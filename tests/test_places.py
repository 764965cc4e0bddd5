"""Bad places: a full disk, a folder that can't be written, and code that would run what it loads."""

import ast
import errno
import os
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tasks.guard import sentence
from tests import miniature, toys
from tests.conftest import Miniature
from tests.miniature import ROOT
from tests.test_house import SOURCES

DATA = "--prepare prepare --augment augment"
PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".joblib", ".dill", ".npy"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml and prepared data, as a stage's command finds it."""
    root = toys.prepared(tmp_path_factory.mktemp("place"))
    miniature.write_params(root, {})
    return root


def stage(place: Path, line: str, largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run a stage's command, no file above so many bytes: to a program that is a disk that is full."""
    limit = None if largest_file is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file,) * 2)
    return subprocess.run(
        [sys.executable, "-m", "tasks.command", *line.split()],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | miniature.NO_BYTECODE,
        text=True,
        capture_output=True,
        preexec_fn=limit,
    )


@pytest.mark.parametrize(
    ("line", "out"),
    [
        ("prepare fashion --raw raw --incoming incoming --out full/prepare", "full/prepare"),
        (
            f"train fashion {DATA} --out full/train --curves full/curves --metrics full/m.json",
            "full/train",
        ),
    ],
    ids=["prepare", "train"],
)
def test_a_full_disk_is_said_in_one_line_and_leaves_nothing_half_written(place: Path, line: str, out: str) -> None:
    done = stage(place, line, largest_file=30_000)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: no room to write" in done.stderr and "free some space" in done.stderr
    assert not (place / out).exists()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no room to write models/x"),
        (errno.EDQUOT, "no room to write models/x"),
        (errno.EROFS, "models/x can't be written or read (Read-only file system)"),
        (errno.EACCES, "models/x can't be written or read"),
        (errno.EIO, "models/x: Input/output error"),
    ],
)
def test_what_the_machine_lacks_is_said_with_the_file(number: int, words: str) -> None:
    assert words in sentence(OSError(number, os.strerror(number), "models/x"))


def test_a_folder_that_can_not_be_written_is_an_error_with_its_name(tmp_path: Path) -> None:
    """Root writes anywhere, so a file stands where the folder would be made."""
    (tmp_path / "params.yaml").write_text("{}")
    (tmp_path / ".state").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "up"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 1 and "error: .state" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_loads_what_could_run(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {"pickle", "dill", "joblib", "shelve", "cloudpickle"} & set(names)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert called not in {"eval", "exec", "os.system", "np.load", "numpy.load"}
            assert called != "yaml.load" or "CBaseLoader" in ast.unparse(node), "it gives texts, lists and mappings"
            assert not called.endswith((".extractall", ".extract")), "an archive may hold ../"
            assert given.get("shell") != "True"
            if called == "torch.load":
                assert given["weights_only"] == "True"


def test_nothing_that_a_run_leaves_is_a_pickle(ran: Miniature) -> None:
    seen = 0
    for below in ("models", "data", "metrics", ".state/mlflow", ".state/triton"):
        for path in (ran.folder / below).rglob("*"):
            if path.is_file():
                seen += 1
                assert path.suffix not in PICKLES, path
                assert path.read_bytes()[:2] not in (b"\x80\x04", b"\x80\x05"), path
                assert not (
                    zipfile.is_zipfile(path) and any("pkl" in name for name in zipfile.ZipFile(path).namelist())
                )
    assert seen > 50
    (model,) = list((ran.folder / ".state/mlflow/artifacts").rglob("MLmodel"))[:1]
    flavours = yaml.safe_load(model.read_text())["flavors"]
    assert flavours.keys() == {"python_function"} and flavours["python_function"]["model_code_path"] == "model.py", (
        "no path of this machine"
    )


def test_state_and_dvcs_cache_of_it_are_private(ran: Miniature) -> None:
    assert (ran.folder / ".state").stat().st_mode & 0o077 == 0
    assert (ran.folder / ".state/dvc").exists(), "DVC's own cache lies below it"


def test_a_password_in_an_address_is_not_printed(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "http://me:secret@127.0.0.1:9"},
        text=True,
        capture_output=True,
    )
    assert "using MLFLOW_TRACKING_URI=http://127.0.0.1:9" in done.stdout and "secret" not in done.stdout + done.stderr
