"""The house proves itself: a modality, others' model and a backend come in without an edit of what is there."""

import json
import subprocess
from typing import Any

import pytest

from tests.conftest import Miniature
from tests.grown import ADDITIONS, Grown

pytestmark = pytest.mark.slow


def receipt(folder: Any, pipeline: str) -> dict[str, Any]:
    return dict(json.loads((folder / f".state/triton/live/{pipeline}.json").read_text()))


def test_a_modality_of_three_files_and_a_block_is_served(grown: Grown) -> None:
    assert len(list((ADDITIONS / "tasks/modalities/sound").glob("*.py"))) == 3
    code, said = grown.outputs["tones"]
    assert code == 0, said
    command = said[said.index("  sh infra/serving/request.sh") :]
    done = subprocess.run(
        ["bash", "-c", command], cwd=grown.folder, env=grown.environment, capture_output=True, text=True
    )
    assert {each["name"] for each in json.loads(done.stdout)["outputs"]} == {"label", "scores"}
    live = receipt(grown.folder, "tones")
    assert live["served_accuracy"] > 0.7 and live["n"] == 120
    page = (grown.folder / "models/report/tones.html").read_text()
    assert "taken for" in page and "loudness" in page


def test_a_model_that_others_trained_is_a_block(ran: Miniature, grown: Grown) -> None:
    code, said = grown.outputs["bought"]
    assert code == 0, said
    assert "imported, not trained" in said and "onnx-imported" in said
    theirs, ours = receipt(ran.folder, "fashion"), receipt(grown.folder, "bought")
    assert abs(theirs["served_accuracy"] - ours["served_accuracy"]) < 0.02, "the same network, served twice"


def test_a_backend_of_one_file_and_a_word_is_built_measured_and_compared(grown: Grown) -> None:
    for pipeline in ("tones", "bought"):
        rows = json.loads((grown.folder / f"models/select/{pipeline}.json").read_text())["rows"]
        found = {row["engine"]: row for row in rows}
        assert found["packed-int8"]["accuracy"] == found["onnxruntime-int8"]["accuracy"]
        assert found["packed-fp32"]["p50_ms"] > 0


def test_no_other_file_changed(grown: Grown) -> None:
    assert len(grown.before) > 80 and grown.after == grown.before


def test_a_queued_experiment_runs_aside_and_is_recorded_with_the_others(grown: Grown) -> None:
    lines = [
        "set -e; source .venv/bin/activate; git init -q .",
        "git add -A; git -c user.name=t -c user.email=t@t commit -qm start",
        "python -c 'from pathlib import Path; from flows.graph import settle; settle(Path.cwd())'",
        "dvc exp run -q --queue --copy-paths data/incoming -S pipelines.tones.select.max_accuracy_drop=0.04 "
        "record@tones",
        "dvc exp run --run-all -j 1",
        "dvc exp show --csv",
    ]
    done = Miniature(grown.folder, grown.environment, "").shell("\n".join(lines))
    assert done.returncode == 0 and "Success" in done.stdout, done.stdout
    assert "MLflow run tones-" in done.stdout and "model version 2" in done.stdout
