"""The house proves itself: a modality, others' model and a backend come in without an edit of what is there."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import tones
from tests.conftest import Miniature
from tests.miniature import ROOT

ADDITIONS = ROOT / "tests" / "additions"
WRITTEN = ("params.yaml", "dvc.lock", "metrics/", "data/", "models/", ".state", ".dvc/", "dvc_plots/")


def files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that a run has no business to write."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith((*WRITTEN, ".venv")) and "__pycache__" not in name:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def grown(ran: Miniature) -> Iterator[Miniature]:
    """Add a modality (three files and a block), an imported model (a block) and a backend (a file and a word)."""
    params, lock = ran.folder / "params.yaml", ran.folder / "dvc.lock"
    before = params.read_text(), lock.read_text(), files(ran.folder)
    mirror = Path(ran.environment["ENGINEWORKS_MIRROR"])
    tones.write(mirror / "tones.tar")
    shutil.copy(ran.folder / "models/export/fashion/model.onnx", mirror / "bought.onnx")
    content = yaml.safe_load(before[0])
    blocks = content["pipelines"] | yaml.safe_load((ADDITIONS / "blocks.yaml").read_text())
    blocks["tones"]["fetch"]["files"]["tones.tar"] = sha256(mirror / "tones.tar")
    blocks["bought"] = bought(blocks["fashion"], ran.folder, mirror / "bought.onnx")
    params.write_text(yaml.safe_dump({"backends": ["onnxruntime", "packed"], "pipelines": blocks}, sort_keys=False))
    added = [path.relative_to(ADDITIONS) for path in ADDITIONS.rglob("*.py")]
    for path in added:
        (ran.folder / path.parent).mkdir(parents=True, exist_ok=True)
        shutil.copy(ADDITIONS / path, ran.folder / path)
    yield ran
    for path in added:
        (ran.folder / path).unlink()
    shutil.rmtree(ran.folder / "tasks/modalities/sound")
    assert files(ran.folder) == before[2], "an addition changed what was there"
    params.write_text(before[0])
    lock.write_text(before[1])


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def bought(block: dict[str, Any], folder: Path, model: Path) -> dict[str, Any]:
    """Return the block of a pipeline whose model others trained, with the normalisation they trained it with."""
    spec = json.loads((folder / "data/prepare/fashion/spec.json").read_text())
    copied: dict[str, Any] = json.loads(json.dumps(block))
    del copied["train"]
    copied["prepare"]["input"]["normalisation"] = {"mean": spec["mean"], "std": spec["std"]}
    imported = {"target": 0.6, "onnx": str(model), "sha256": sha256(model)}
    return copied | {"model": "imported", "imported": imported, "augment": {}}


def test_a_modality_of_three_files_and_a_block_is_served(grown: Miniature) -> None:
    assert len(list((ADDITIONS / "tasks/modalities/sound").glob("*.py"))) == 3
    done = grown.shell("make run PIPELINE=tones")
    assert done.returncode == 0, done.stdout
    command = done.stdout[done.stdout.index("  sh infra/serving/request.sh") :]
    answer = json.loads(grown.shell(command).stdout)
    assert {each["name"] for each in answer["outputs"]} == {"label", "scores"}
    receipt = json.loads((grown.folder / ".state/triton/live/tones.json").read_text())
    assert receipt["served_accuracy"] > 0.7 and receipt["n"] == 120


def test_a_model_that_others_trained_is_a_block(grown: Miniature) -> None:
    done = grown.shell("make run PIPELINE=bought")
    assert done.returncode == 0, done.stdout
    assert "imported, not trained" in done.stdout and "onnx-imported" in done.stdout
    receipts = [
        json.loads((grown.folder / f".state/triton/live/{name}.json").read_text()) for name in ("bought", "fashion")
    ]
    assert abs(receipts[0]["served_accuracy"] - receipts[1]["served_accuracy"]) < 0.02, "the same network, served twice"


def test_a_backend_of_one_file_and_a_word_is_built_measured_and_compared(grown: Miniature) -> None:
    for pipeline in ("tones", "bought"):
        rows = json.loads((grown.folder / f"models/select/{pipeline}.json").read_text())["rows"]
        found = {row["engine"]: row for row in rows}
        assert found["packed-int8"]["accuracy"] == found["onnxruntime-int8"]["accuracy"]
        assert found["packed-fp32"]["p50_ms"] > 0
