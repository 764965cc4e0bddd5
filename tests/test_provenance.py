"""provenance: Prefect, MLflow and the last deploy are asked about the files as they lie, and left as they are."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows import provenance, receipt
from tasks import mirror
from tests.finished import write


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """An address that answers as Prefect's `task_runs/filter` does, for the runs put into the list, newest first."""
    runs: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/api/task_runs/filter" and body["sort"] == "END_TIME_DESC"
            names, kept = body["task_runs"]["name"]["any_"], body["task_runs"]["state"]["name"]["any_"]
            page = [run for run in runs if run["name"] in names and run["state_name"] in kept]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(page[: body["limit"]]).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
        yield runs
        server.shutdown()


def test_a_stage_last_ran_when_it_was_not_merely_looked_at(prefect: list[dict[str, Any]]) -> None:
    def run(name: str, state: str, day: int) -> dict[str, str]:
        return {"name": name, "state_name": state, "end_time": f"2026-11-{day:02}T22:10:00Z"}

    prefect += [run("train@toy", "Cached", 9), run("train@toy", "Failed", 8), run("train@toy", "Completed", 7)]
    prefect += [run("train@toy", "Completed", 6)] * 2 * provenance.PAGE  # what runs often hides nothing
    prefect += [run("fetch@toy", "Completed", 1), run("fetch@other", "Completed", 1)]
    assert provenance.last_runs(["fetch@toy", "train@toy", "record@toy"]) == {
        "train@toy": "2026-11-07T22:10:00Z",
        "fetch@toy": "2026-11-01T22:10:00Z",
    }


def test_mlflow_is_asked_by_the_run_key_and_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert provenance.in_mlflow("toy", "k1") == {"why": "not recorded: no sqlite:///.state/mlflow/mlflow.db"}
    assert not list(tmp_path.iterdir())
    client, experiment = mirror.connect("toy")
    for key, flow_run in (("k1", "flow-1"), ("k2", "none")):
        made = client.create_run(experiment, tags={"run_key": key, "flow_run_id": flow_run}, run_name=f"toy-{key}")
        client.set_terminated(made.info.run_id)
        if key == "k1":
            client.create_registered_model("toy")
            client.create_model_version("toy", str(tmp_path), made.info.run_id)
            client.set_registered_model_alias("toy", "champion", "1")
    database = tmp_path / ".state/mlflow/mlflow.db"
    before = hashlib.sha256(database.read_bytes()).hexdigest()
    first, second = provenance.in_mlflow("toy", "k1"), provenance.in_mlflow("toy", "k2")
    del first["id"]
    assert first == {"run": "toy-k1", "status": "FINISHED", "champion": True, "flow_run_id": "flow-1"}
    assert second["run"] == "toy-k2" and not second["champion"]
    assert provenance.in_mlflow("toy", "k3") == provenance.in_mlflow("unheard", "k1") == {"why": "not recorded"}
    assert hashlib.sha256(database.read_bytes()).hexdigest() == before
    database.write_text("not a database, but some text that is long enough to be read as one" * 9)
    assert "not a database" in provenance.in_mlflow("toy", "k1")["why"]


def test_the_live_package_is_told_from_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(receipt.place("toy"), {"engine": "onnxruntime-int8", "version": 2, "sha256": "a"})
    assert provenance.deployed("toy")["this_package"] is False
    for sha256 in ("a", "b"):
        write(Path("models/package/toy/package.json"), {"sha256": sha256})
        assert provenance.deployed("toy")["this_package"] is (sha256 == "a")
