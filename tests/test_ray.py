"""Bulk answers by engines on a Ray cluster: the same rows as through the servers, in the same order."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows import cluster, rows
from flows.reading import Reader, Row
from tests.conftest import Miniature
from tests.miniature import drop
from tests.test_yy_score import read


@pytest.mark.parametrize("blocks", [[3, 4, 2, 1], [10], [1] * 10])
def test_a_stream_is_cut_into_parts_whatever_its_blocks_are(blocks: list[int]) -> None:
    numbers = iter(range(10))
    stream = (rows.table([Row(str(next(numbers))) for _ in range(size)]) for size in blocks)
    found = [each["path"].to_pylist() for each in cluster.portions(stream, [4, 4, 2])]
    assert found == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9"]]


def test_a_reader_travels_as_facts(tmp_path: Path) -> None:
    from tasks.params import block
    from tasks.params import read as params

    section = block("fashion", params())["prepare"]["input"]
    there = Reader(tmp_path, "image/classification", section, 1000)
    here = pickle.loads(pickle.dumps(there))
    assert here == there
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="no picture"):
        here.sound(tmp_path / "text.png")
    assert here.name(tmp_path / "text.png") == "text.png"


@pytest.fixture
def nodes() -> Iterator[str]:
    """A cluster of two nodes with a core each, on loopback; its address."""
    from ray.cluster_utils import Cluster

    both = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    both.add_node(num_cpus=1)
    yield both.address
    both.shutdown()


@pytest.mark.slow
def test_two_nodes_give_the_rows_that_the_servers_give(ran: Miniature, nodes: str, tmp_path: Path) -> None:
    folder = tmp_path / "bulk"
    drop(folder, 300)
    good = next(folder.rglob("*.png")).read_bytes()
    (folder / "cut.png").write_bytes(good[: len(good) // 2])
    (folder / "empty.png").write_bytes(b"")
    found = {}
    for name, way in (("served", ""), ("ray", f"--ray {nodes}")):
        out = tmp_path / f"{name}.parquet"
        done = ran.shell(f"engineworks score fashion '{folder}' --out '{out}' {way}")
        assert done.returncode == 0 and "302 rows, 2 of them errors" in done.stdout, done.stdout
        found[name] = read(out)
    for served, ours in zip(found["served"], found["ray"], strict=True):
        assert {**served, "scores": None, "confidence": None} == {**ours, "scores": None, "confidence": None}
        if served["label"]:
            np.testing.assert_allclose(ours["scores"], served["scores"], atol=1e-5)
    assert pq.read_schema(tmp_path / "ray.parquet") == pq.read_schema(tmp_path / "served.parquet")


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_named(ran: Miniature, tmp_path: Path) -> None:
    drop(tmp_path / "some", 4)
    out = tmp_path / "out.parquet"
    done = ran.shell(f"engineworks score fashion '{tmp_path}/some' --out '{out}' --ray 127.0.0.1:9")
    assert done.returncode == 1 and "Ray at 127.0.0.1:9 does not answer" in done.stdout and not out.exists()
