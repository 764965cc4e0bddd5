"""The whole path in miniature: what a run prints, leaves and serves; and that a second run does nothing."""

import json
import os
import pty
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.conftest import Miniature


def ask(url: str, body: Any = None) -> Any:
    """Ask a JSON API; again where it is busy, as Prefect's own client does: SQLite takes one writer at a time."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    for tries_left in (2, 1, 0):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # as long as Prefect's own client waits
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code != 503 or not tries_left:
                raise
            time.sleep(1)


def test_output_is_clean_and_fits_80_columns(ran: Miniature) -> None:
    assert not re.search(r"Warning|Traceback|alembic|Error", ran.output)
    assert [line for line in ran.output.splitlines() if len(line) > 80] == []
    assert "16 stages ran" in ran.output
    words = ("served accuracy", "chosen", "tensorrt_rtx-fp16", "built, not run here", "orchestration", "spent by")
    for word in words:
        assert word in ran.output


def test_every_stage_prints_one_line(ran: Miniature) -> None:
    done = [line.split()[0] for line in ran.output.splitlines() if re.match(r"[a-z].{17}.*\d s  ", line)]
    assert done == [
        *("fetch", "prepare", "augment", "train", "export", "quantize", "build", "build", "build"),
        *("evaluate", "measure", "select", "report", "reference", "package", "record"),
    ]


@pytest.mark.skipif(shutil.which("curl") is None, reason="this machine has no curl")
def test_the_curl_line_answers_readable_json_on_a_terminal(ran: Miniature) -> None:
    command = ran.output[ran.output.index("  sh infra/serving/request.sh") :]
    ours, theirs = pty.openpty()
    subprocess.run(
        ["bash", "-c", command], cwd=ran.folder, env=ran.environment, stdout=theirs, stderr=theirs, check=True
    )
    answer = json.loads(os.read(ours, 65536))
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    assert outputs["label"][0] in {"disc", "box", "cross", "bar"}
    assert len(outputs["scores"]) == 4 and abs(sum(outputs["scores"]) - 1) < 1e-3


def test_the_receipt_says_what_is_live(ran: Miniature) -> None:
    receipt = json.loads((ran.folder / ".state/triton/live/fashion.json").read_text())
    assert receipt["golden"]["labels_equal"] and receipt["n"] == 400
    chosen = json.loads((ran.folder / "models/select/fashion.json").read_text())
    assert receipt["engine"] == chosen["chosen"]
    assert receipt["budget"][-1]["step"] == "served" and receipt["budget"][-1]["from"] == chosen["chosen"]
    offline = next(row for row in chosen["rows"] if row["engine"] == chosen["chosen"])
    assert abs(receipt["served_accuracy"] - offline["accuracy"]) < 1e-9, "the server computes what evaluate computed"


def test_prefect_shows_the_run_its_tasks_and_its_artifacts(ran: Miniature) -> None:
    api = ran.url("PREFECT") + "/api"
    runs = ask(f"{api}/flow_runs/filter", {})
    assert {run["state"]["type"] for run in runs if run["name"] in ("fashion", "deploy-fashion")} == {"COMPLETED"}
    names = {task["name"] for task in ask(f"{api}/task_runs/filter", {})}
    assert {"fetch@fashion", "train@fashion", "build@fashion-tensorrt_rtx", "record@fashion"} <= names
    left = {artifact["key"]: artifact["data"] for artifact in ask(f"{api}/artifacts/filter", {})}
    assert {"engines-fashion", "report-fashion"} <= left.keys()
    run, file = re.search(
        rf"\({ran.url('MLFLOW')}/#/experiments/\d+/runs/(\w+)/artifacts/([\w.]+)\?\S+\)", left["report-fashion"]
    ).groups()  # type: ignore[union-attr]
    with urllib.request.urlopen(f"{ran.url('MLFLOW')}/get-artifact?run_id={run}&path={file}", timeout=20) as answer:
        assert answer.read() == (ran.folder / "models/report/fashion.html").read_bytes()


def test_mlflow_holds_the_run_its_curve_and_an_engine_each(ran: Miniature) -> None:
    api = ran.url("MLFLOW") + "/api/2.0/mlflow"
    experiment = ask(f"{api}/experiments/get-by-name?experiment_name=fashion")["experiment"]["experiment_id"]
    runs = ask(f"{api}/runs/search", {"experiment_ids": [experiment]})["runs"]
    tags = [{tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in runs]
    parents = [i for i, tag in enumerate(tags) if "mlflow.parentRunId" not in tag]
    assert len(parents) == 1 and len(runs) == 8
    assert {run["info"]["status"] for run in runs} == {"FINISHED"}
    metrics = {metric["key"] for metric in runs[parents[0]]["data"]["metrics"]}
    assert "served_accuracy" in metrics and any("validation_loss" in name for name in metrics)


def test_a_labelled_file_that_is_dropped_makes_prepare_stale(ran: Miniature) -> None:
    dropped = ran.folder / "data/incoming/fashion/disc/new.png"
    dropped.parent.mkdir()
    dropped.write_bytes(b"anything")
    try:
        status = ran.shell("source .venv/bin/activate && dvc status prepare@fashion")
        assert "data/incoming/fashion" in status.stdout
    finally:
        dropped.unlink()
        dropped.parent.rmdir()
