"""record: one finished MLflow run per set of inputs, whatever was interrupted, emptied or repeated."""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tasks import champion, mirror
from tasks.champion import promote
from tasks.record import heal, record
from tests.finished import CURVES, FINGERPRINT, PARAMS, inputs, package, write

SERVED = {"served_accuracy": 0.91, "low": 0.9, "high": 0.92}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An MLflow of this module's own, on SQLite."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("PREFECT__FLOW_RUN_ID", "flow-1")
        mirror.new_client().search_experiments()  # makes the tables
        with (
            closing(sqlite3.connect(folder / "mlflow.db")) as full,
            closing(sqlite3.connect(folder / "empty.db")) as empty,
        ):
            full.backup(empty)
        yield folder


@pytest.fixture(scope="module")
def recorded(store: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One recorded run, after a live mirror of half its curve, with the receipt and what was asked."""
    asked = inputs(tmp_path_factory.mktemp("recorded") / "toy")
    live = mirror.open_live_run("toy", FINGERPRINT)
    growing = asked["train"].parent / "growing.csv"
    growing.write_text(CURVES[: CURVES.index("1,30") + 3])  # two whole rows and the beginning of a third
    mirrored = mirror.mirror(growing, live, 0)
    record(**asked)
    receipt = json.loads(asked["out"].read_text())
    return SimpleNamespace(asked=asked, receipt=receipt, live=live, mirrored=mirrored)


def runs(pipeline: str = "toy", key: str | None = None) -> list[Any]:
    """Return the recorded runs, whatever became of them."""
    return mirror.tagged(*mirror.connect(pipeline), mirror.RUN_KEY, key)


def run_id(receipt: dict[str, Any]) -> str:
    """Return the run that a receipt's key leads to."""
    (run,) = runs(key=receipt["run_key"])
    return str(run.info.run_id)


def model_version(receipt: dict[str, Any]) -> str:
    """Return the model version of the run that a receipt's key leads to."""
    return str(champion.version_of(mirror.new_client(), "toy", run_id(receipt)))


def aliases() -> dict[str, str]:
    """Return the aliases of the toy's registered model."""
    found = mirror.new_client().get_registered_model("toy").aliases
    return {name: str(number) for name, number in found.items()}


def points(run_id: str, name: str) -> list[tuple[int, float]]:
    """Return the steps and values of one metric of a run."""
    return [(point.step, point.value) for point in mirror.new_client().get_metric_history(run_id, name)]


def test_a_live_run_is_adopted_and_its_points_are_not_doubled(recorded: SimpleNamespace) -> None:
    assert recorded.mirrored == 2, "a row without its newline waits"
    assert run_id(recorded.receipt) == recorded.live
    assert points(recorded.live, "curves/loss") == [(10, 1.5), (20, 1.0), (30, 0.5)]
    assert points(recorded.live, "curves/validation") == [(20, 0.7), (30, 0.9)]


def test_a_run_holds_params_metrics_tags_files_and_engines(recorded: SimpleNamespace) -> None:
    client = mirror.new_client()
    run = client.get_run(run_id(recorded.receipt))
    assert run.info.status == "FINISHED"
    assert run.data.params["train.target"] == "0.9" and run.data.params["prepare.classes"] == '["a", "b"]'
    assert run.data.metrics["accuracy"] == 0.91 and run.data.metrics["train_metrics/reached"] == 1
    assert run.data.metrics["evaluate/onnxruntime-fp32/per_class/T-shirt_top _b_"] == 0.92
    assert run.data.tags["verdict"] == "passed" and run.data.tags["flow_run_id"] == "flow-1"
    assert "| onnxruntime-fp32 | 0.9100 | 0.50 |" in run.data.tags["mlflow.note.content"]
    (data,) = [each.dataset for each in run.inputs.dataset_inputs]
    assert data.name == "toy" and run.data.tags["data_hash"].startswith(data.digest) and '"train": 8' in data.profile
    assert {file.path for file in client.list_artifacts(run.info.run_id, "pictures/curves")} == {
        "pictures/curves/curves.png"
    }
    top = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert top == {"pictures", "report.html", "reports", "weights"}
    assert "reports/evaluate.json" in {file.path for file in client.list_artifacts(run.info.run_id, "reports")}
    nested = {
        child.info.run_name: child
        for child in client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    }
    assert nested.keys() == {"onnxruntime-fp32", "tensorrt_rtx-fp32"}
    assert nested["onnxruntime-fp32"].data.metrics["p50_ms"] == 0.5
    assert nested["tensorrt_rtx-fp32"].data.params["not_measured"] == "no GPU"
    kept = client.list_artifacts(nested["tensorrt_rtx-fp32"].info.run_id)
    assert [file.path for file in kept] == ["fp32.engine", "passport.json"]
    assert nested["tensorrt_rtx-fp32"].data.params["versions.onnxruntime"] == version("onnxruntime")


def test_the_model_page_says_what_a_version_is_and_leads_to_the_registry(recorded: SimpleNamespace) -> None:
    client, number = mirror.new_client(), model_version(recorded.receipt)
    found = client.get_model_version("toy", number)
    assert found.description.startswith("accuracy 0.9100, p50_ms 0.50")
    (model,) = client.search_logged_models([runs()[0].info.experiment_id], f"source_run_id = '{found.run_id}'")
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "toy", "version": number}]


def test_recording_twice_changes_nothing(recorded: SimpleNamespace, capfd: pytest.CaptureFixture[str]) -> None:
    before = recorded.asked["out"].stat().st_mtime_ns
    record(**recorded.asked)
    assert [run.info.run_id for run in runs(key=recorded.receipt["run_key"])] == [run_id(recorded.receipt)]
    assert recorded.asked["out"].stat().st_mtime_ns == before
    assert capfd.readouterr() == ("", "")


def test_a_stock_client_predicts(recorded: SimpleNamespace) -> None:
    import mlflow

    promote("toy", SERVED | {"sha256": "package-1"})
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    model = mlflow.pyfunc.load_model("models:/toy@champion")
    answer = model.predict(np.ones((3, 1, 2, 2), np.float32))
    np.testing.assert_array_equal(answer["logits"], [[4, -4]] * 3)
    assert tuple(model.metadata.signature.inputs.inputs[0].shape) == (-1, 1, 2, 2)


def test_an_interrupted_run_is_completed(
    recorded: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = inputs(tmp_path / "toy") | {"pipeline": "interrupted"}

    def pull_the_plug(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("tasks.ledger.register", pull_the_plug)
        record(**asked)
    (half,) = runs("interrupted")
    assert half.info.status == "RUNNING"
    record(**asked)
    (whole,) = runs("interrupted")
    assert whole.info.status == "FINISHED" and whole.info.run_id == half.info.run_id
    assert len(points(whole.info.run_id, "accuracy")) == 1
    assert len(mirror.connect("interrupted")[0].search_runs([whole.info.experiment_id])) == 3, "the run and two engines"


def test_a_curve_rewritten_by_a_resumed_training_replaces_the_live_run(
    recorded: SimpleNamespace, tmp_path: Path
) -> None:
    asked = inputs(tmp_path / "toy", chosen=None) | {"pipeline": "resumed"}
    live = mirror.open_live_run("resumed", FINGERPRINT)
    write(tmp_path / "stale.csv", CURVES.replace("0.5", "0.6"))
    mirror.mirror(tmp_path / "stale.csv", live, 0)
    record(**asked)
    (run,) = runs("resumed")
    assert run.info.run_id != live
    assert points(run.info.run_id, "curves/loss") == [(10, 1.5), (20, 1.0), (30, 0.5)]
    assert run.data.tags["verdict"] == "refused"
    assert champion.version_of(mirror.new_client(), "resumed", run.info.run_id) is None


def test_a_live_run_that_failed_says_why_and_is_taken_up_again(store: Path) -> None:
    first, other = mirror.open_live_run("live", "1" * 64), mirror.open_live_run("live", "2" * 64)
    client = mirror.new_client()
    mirror.end_live_run(first, "FAILED", "the loss is nan at step 7")
    failed = client.get_run(first)
    assert failed.info.status == "FAILED" and failed.data.tags[mirror.FAILURE] == "the loss is nan at step 7"
    assert mirror.open_live_run("live", "1" * 64) == first != other
    again = client.get_run(first)
    assert again.info.status == "RUNNING" and mirror.FAILURE not in again.data.tags
    assert client.get_run(other).info.status == "RUNNING", "it may be another machine's"


def test_a_run_that_is_finished_stays_so(recorded: SimpleNamespace) -> None:
    mirror.end_live_run(recorded.live, "KILLED", "too late")
    assert mirror.new_client().get_run(recorded.live).info.status == "FINISHED"


def test_an_emptied_store_heals(
    recorded: SimpleNamespace, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/empty.db")
    out = tmp_path / "out.json"
    shutil.copy(recorded.asked["out"], out)
    record(**recorded.asked | {"out": out})
    (run,) = runs()
    receipt = json.loads(out.read_text())
    assert run.info.run_id != recorded.live
    assert receipt["run_key"] == recorded.receipt["run_key"] and model_version(receipt) == "1"


def test_heal_records_what_the_stage_in_dvc_yaml_would(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = inputs(tmp_path / "healed") | {"pipeline": "healed"}
    block = PARAMS | {"modality": "image", "problem": "classification", "model": "train"}
    write(tmp_path / "params.yaml", {"backends": asked["backends"], "pipelines": {"healed": block}})
    paths = {name: path for name, path in asked.items() if isinstance(path, Path)}
    wiring = " ".join(f"--{name.replace('_', '-')} {path.relative_to(tmp_path)}" for name, path in paths.items())
    command = f"python -m tasks.command record ${{key}} {wiring}".replace("healed/", "${key}/")
    write(tmp_path / "dvc.yaml", {"stages": {"record": {"do": {"cmd": command}}}})
    monkeypatch.chdir(tmp_path)
    heal("healed")
    (run,) = runs("healed")
    assert run.info.status == "FINISHED" and not asked["out"].exists()
    record(**asked | {"params": block})
    assert json.loads(asked["out"].read_text())["run_key"] == run.data.tags[mirror.RUN_KEY]


def test_promote_moves_the_alias_and_back(
    recorded: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = inputs(tmp_path / "newer")
    package(newer["package"], "onnxruntime-fp32", "package-2")
    record(**newer)
    second = json.loads(newer["out"].read_text())
    assert run_id(second) != run_id(recorded.receipt) and model_version(second) != model_version(recorded.receipt)
    first = ("package-1", recorded.receipt)
    one, two = model_version(recorded.receipt), model_version(second)
    assert aliases() == {"champion": one, "candidate": two}
    to_one, to_two = {"champion": one, "previous": two}, {"champion": two, "previous": one}
    steps = [
        (first, {"champion": one, "candidate": two}),
        (("package-2", second), to_two),
        (first, to_one),
        (first, to_one),
    ]
    for (digest, receipt), expected in steps:
        promote("toy", SERVED | {"sha256": digest})
        assert aliases() == expected
        assert points(run_id(receipt), "served_accuracy") == [(0, 0.91)]
    with pytest.raises(ValueError, match="run the record stage"):
        promote("toy", SERVED | {"sha256": "unheard of"})


def test_of_two_runs_with_one_package_the_recorded_one_is_promoted(
    recorded: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(**recorded.asked | {"params": {"train": {"target": 0.8}}, "out": tmp_path / "twin.json"})
    for out in (tmp_path / "twin.json", recorded.asked["out"]):
        receipt = json.loads(out.read_text())
        write(tmp_path / "models/record/toy.json", receipt)
        monkeypatch.chdir(tmp_path)
        promote("toy", SERVED | {"sha256": "package-1"})
        assert aliases()[champion.ALIAS] == model_version(receipt)


def test_bytes_of_an_engine_are_uploaded_once(recorded: SimpleNamespace, tmp_path: Path) -> None:
    record(**recorded.asked | {"params": {"train": {"target": 0.7}}, "out": tmp_path / "other.json"})
    client = mirror.new_client()
    receipt = json.loads((tmp_path / "other.json").read_text())
    run = client.get_run(run_id(receipt))
    nested = client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    assert len(nested) == 2
    for child in nested:
        assert [file.path for file in client.list_artifacts(child.info.run_id)] == ["passport.json"]
        holder = child.data.tags["bytes"].removeprefix("runs:/").partition("/")[0]
        assert client.get_run(holder).data.tags["sha256"] == child.data.tags["sha256"]
        assert len(client.list_artifacts(holder)) == 2
