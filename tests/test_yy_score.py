"""Bulk answers for a folder: a row per file whatever it holds, resumed after a kill, held back for those who wait."""

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import miniature
from tests.conftest import Miniature
from tests.traffic import Traffic

SCRIPT = """
import os, signal, sys
from pathlib import Path
from flows import addresses; addresses.adopt()
from flows import rows, score
rows.PART = score.PART = 8
whole, kills = rows.write, {kills}
def write(*given):
    whole(*given)
    if kills:
        os.kill(os.getpid(), signal.SIGKILL)
rows.write = write
sys.exit(score.score_folder("fashion", Path({folder!r}), Path({out!r})))
"""


@pytest.fixture
def folder(ran: Miniature, tmp_path: Path) -> Path:
    """Put good pictures into sub-folders, and beside them what is none."""
    place = tmp_path / "bulk"
    miniature.drop(place, 40)
    good = next(place.rglob("*.png")).read_bytes()
    (place / "cut.png").write_bytes(good[: len(good) // 2])
    (place / "empty.png").write_bytes(b"")
    (place / "text.jpg").write_text("I am a picture")
    (place / ".hidden").write_bytes(good)
    return place


@pytest.fixture
def traffic(ran: Miniature) -> Iterator[Traffic]:
    """Ask as one who waits."""
    client = Traffic(ran)
    client.start()
    yield client
    client.end()


def read(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return list(pq.read_table(path).to_pylist())


def score(system: Miniature, folder: Path, out: Path, kills: bool = False) -> subprocess.CompletedProcess[str]:
    code = SCRIPT.format(folder=str(folder), out=str(out), kills=kills)
    return subprocess.run(
        [str(system.folder / ".venv/bin/python"), "-W", "ignore", "-c", code],
        cwd=system.folder,
        env=system.environment,
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_each_file_gets_one_row_and_a_kill_costs_one_part(
    ran: Miniature, folder: Path, tmp_path: Path, traffic: Traffic
) -> None:
    out = tmp_path / "answers.parquet"
    assert score(ran, folder, out, kills=True).returncode == -signal.SIGKILL
    assert not out.exists() and len(list(tmp_path.rglob("*.partial/*/*.parquet"))) == 1
    done = score(ran, folder, out)
    assert done.returncode == 0 and "43 rows (8 by a run before), 3 of them errors" in done.stdout, done.stdout
    assert not (tmp_path / "answers.parquet.partial").exists()
    found = read(out)
    paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("[!.]*") if path.is_file())
    assert sorted(row["path"] for row in found) == paths and len(found) == 43
    version = json.loads((ran.folder / ".state/triton/live/fashion.json").read_text())["version"]
    for row in found:
        if row["error"] is None:
            assert row["version"] == version and abs(sum(row["scores"]) - 1) < 1e-4
            assert row["label"] == miniature.CLASSES[int(np.argmax(row["scores"]))]
            assert row["confidence"] == max(row["scores"])
        else:
            assert row["label"] is None and row["scores"] is None and str(folder) not in row["error"]
    errors = {row["path"]: row["error"] for row in found if row["error"]}
    assert "cut off" in errors["cut.png"] and errors["empty.png"] == "can't be decoded: the file is empty"
    assert "no picture" in errors["text.jpg"]
    right = [row["path"].split("/")[0] == row["label"] for row in found if row["error"] is None]
    assert sum(right) > 0.5 * len(right), "they are of the classes whose folder they lie in"
    traffic.end()
    assert traffic.answered > 100 and traffic.errors == [], "those who wait were answered meanwhile"


def test_what_can_not_be_scored_is_said_before_any_work(ran: Miniature, folder: Path, tmp_path: Path) -> None:
    done = ran.shell(f"python -m flows.cli score fashion {folder} --out {folder}/a.parquet")
    assert done.returncode == 1 and "put it elsewhere" in " ".join(done.stdout.split()), done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bulk"]


@pytest.mark.parametrize(
    ("folder", "out", "said"),
    [("nowhere", "a.parquet", "no such folder"), (".", "../a.csv", "name it like answers.parquet")],
)
def test_a_place_that_does_not_do_is_named(tmp_path: Path, folder: str, out: str, said: str) -> None:
    from flows.score import check

    with pytest.raises(ValueError, match=said):
        check("fashion", tmp_path / folder, tmp_path / out)


def test_the_door_holds_bulk_work_back_and_refuses_more_than_its_share(ran: Miniature) -> None:
    """At most serving.throughput.max_in_flight requests of a bulk key are under way; the others get 429 at once."""
    import http.client

    import yaml

    share = yaml.safe_load((ran.folder / "params.yaml").read_text())["serving"]["throughput"]["max_in_flight"]
    key = (ran.folder / ".state/door/keys/throughput/bulk").read_text().strip().removeprefix("Authorization: ")
    address = ran.url("HTTP").removeprefix("http://")
    slow = [http.client.HTTPConnection(address, timeout=20) for _ in range(share + 3)]
    for connection in slow:  # a body that does not end yet keeps a request under way
        connection.putrequest("POST", "/v2/models/fashion_tensor/infer")
        for name, value in (
            ("Authorization", key),
            ("Content-Length", "10"),
            ("Inference-Header-Content-Length", "10"),
        ):
            connection.putheader(name, value)
        connection.endheaders(b"{")
    statuses: list[int] = []

    def finish(connection: http.client.HTTPConnection) -> None:
        connection.send(b'"a": "bc"')
        answer = connection.getresponse()
        statuses.append(answer.status)
        answer.read()

    threads = [threading.Thread(target=finish, args=[connection]) for connection in slow]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert statuses.count(429) == 3 and len(statuses) == share + 3, statuses
    asked = Traffic(ran)
    asked.ask()  # the other class is not held back
