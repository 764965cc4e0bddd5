"""Files through engines on a Ray cluster: each actor holds what is live, the same bytes, and needs no server."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows import repository, rows, terminal
from flows.actor import BATCH, BLOCK, Engine
from flows.reading import Reader
from flows.rows import PART
from flows.serving import MODELS
from tasks.package import VERSION

CONNECT_S = 5.0
LOCAL = "local"  # Ray's word for a cluster of this machine alone, for the while
REMEDY = f"start it (ray start --head), or use --ray {LOCAL}"
LEFT_OUT = ("__pycache__", "model.py")  # of a live part: what Triton alone wants


def ask(cluster: str, pipeline: str, reader: Reader, parts: Path, count: int) -> int:
    """Leave every part of the answers that is not there; return how many files that were."""
    cut = enumerate(rows.cut(rows.walk(reader.folder), PART))
    due = [(rows.place(parts, number), some) for number, some in cut if not rows.place(parts, number).exists()]
    fresh = sum(len(some) for _, some in due)
    if not fresh:
        return 0
    begun = shown = time.monotonic()
    with connected(cluster):
        tables = computed(pipeline, reader, [path for _, some in due for path in some])
        done = 0
        for (place, some), table in zip(due, portions(tables, [len(some) for _, some in due]), strict=True):
            with rows.appearing(place) as writer:
                writer.write_table(table)
            done += len(some)
            if time.monotonic() - shown >= terminal.PROGRESS_S:
                shown = time.monotonic()
                terminal.say(f"  {count - fresh + done:,} of {count:,} files, {done / (shown - begun):,.0f} files/s")
    return fresh


@contextmanager
def connected(cluster: str) -> Iterator[None]:
    """Be a driver of a Ray cluster while the body runs; `ValueError` where it does not answer."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        import ray
    except ModuleNotFoundError:
        raise ValueError("Ray is not installed: pip install 'engineworks[ray]'") from None
    from ray.data import DataContext

    refuse_silent(cluster)
    where: dict[str, Any] = {"address": cluster}
    if cluster == LOCAL:
        where |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    environment = {"env_vars": {"PYTHONPATH": str(Path.cwd())}}
    try:
        ray.init(**where, runtime_env=environment, logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError as error:
        raise ValueError(f"Ray at {cluster}: {error}; {REMEDY}") from None
    try:
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        yield
    finally:
        ray.shutdown()


def refuse_silent(cluster: str) -> None:
    """Raise `ValueError` where nobody listens at `HOST:PORT`: Ray itself would try for minutes."""
    host, _, port = cluster.rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.rpartition("/")[2], int(port)), CONNECT_S).close()
    except OSError as error:
        raise ValueError(f"Ray at {cluster} does not answer ({error.strerror or error}); {REMEDY}") from None


def computed(pipeline: str, reader: Reader, paths: list[Path]) -> Iterator[Any]:
    """Yield the rows of all paths as Arrow tables, in order; an actor for each core of the cluster."""
    import ray
    from ray.data import ActorPoolStrategy

    version = repository.live_version(pipeline)
    actors = max(1, min(int(ray.cluster_resources().get("CPU", 1)), -(-len(paths) // BATCH)))
    blocks = max(actors, -(-len(paths) // BLOCK))
    items = [{"path": os.fsencode(path)} for path in paths]
    data = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        Engine,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
        compute=ActorPoolStrategy(size=actors),
        fn_constructor_args=(reader, version, [ray.put(live_files(pipeline, version))]),
    )
    yield from data.iter_batches(batch_size=None, batch_format="pyarrow")


def live_files(pipeline: str, version: int) -> dict[str, bytes]:
    """Return what is live, but what Triton alone wants: `engine/...` and `preprocess/...`, by name."""
    found = {}
    for name in repository.names(pipeline, version):
        folder = MODELS / name / VERSION
        kind = name.removeprefix(f"{pipeline}_").partition(".")[0]
        for path in folder.rglob("*"):
            if path.is_file() and not {*path.relative_to(folder).parts} & {*LEFT_OUT}:
                found[f"{kind}/{path.relative_to(folder)}"] = path.read_bytes()
    return found


def portions(tables: Iterator[Any], sizes: list[int]) -> Iterator[Any]:
    """Cut a stream of tables into tables of the given sizes."""
    import pyarrow as pa

    held: list[Any] = []
    for size in sizes:
        while sum(len(each) for each in held) < size:
            held.append(next(tables).cast(rows.schema()))
        whole = pa.concat_tables(held)
        yield whole.slice(0, size).combine_chunks()
        held = [whole.slice(size)]
