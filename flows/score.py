"""score: an answer for every file of a folder, as one Parquet file; killed, it goes on where it was.

Through the live servers, beside those who wait, or, without them, through engines on a Ray cluster.
"""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run
from prefect.states import Completed, State

from flows import cluster, ownership, receipt, rows, services, terminal
from flows.bulk import Bulk
from flows.parameters import Answers, Folder, Pipeline, Ray
from flows.reading import Row, reader
from flows.rows import PART

Counts = Counter[str | None]


def score_folder(pipeline: str, folder: Path, out: Path, ray: str | None = None) -> int:
    """Start what is needed and not up, score a folder, and print what came of it; return 0."""
    check(pipeline, folder, out)
    needed = [each for each in services.known() if ray is None or each.name == "prefect"]
    services.start(needed)
    services.wait(needed)
    state = score(pipeline, folder, out, ray, return_state=True)
    summary = state.result()
    terminal.paragraph(state.message or "")
    for label, count in summary["classes"].items():
        terminal.say(terminal.fit(f"  {count:>10,}  {label}"))
    return 0


def check(pipeline: str, folder: Path, out: Path) -> None:
    """Raise `ValueError` for what can't be scored or written."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the folder whose files are to be scored")
    if out.is_dir() or out.suffix != ".parquet":
        raise ValueError(f"--out {out}: the answers are written to one file; name it like answers.parquet")
    if out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"--out {out}: lies in {folder}, and would be scored itself next time; put it elsewhere")
    receipt.demand(pipeline)


@flow(name="score", flow_run_name="score-{pipeline}")
def score(pipeline: Pipeline, folder: Folder, out: Answers, ray: Ray = None) -> State[dict[str, Any]]:
    """Leave one row per file of `folder` in `out`; the state is Scored, with rows, errors, seconds and classes.

    Finished parts of a run that was killed are used, where no file was added, removed or changed since.
    """
    begun = time.monotonic()
    check(pipeline, folder, out)  # a run from Prefect's form comes by no command line
    with ownership.owned(str(flow_run.id), pipeline), rows.alone(out) as aside:
        mark, count = rows.fingerprint(pipeline, folder)
        if not count:
            raise ValueError(f"{folder}: no file in it")
        parts = aside / mark
        parts.mkdir(exist_ok=True)
        if ray is None:
            fresh = ask(Bulk(pipeline, folder), folder, parts, count)
        else:
            fresh = cluster.ask(ray, pipeline, reader(pipeline, folder.resolve()), parts, count)
        if rows.fingerprint(pipeline, folder)[0] != mark:
            raise ValueError(f"{folder}: files changed while they were scored; run the same command again")
        counts = rows.join((rows.place(parts, number) for number in range(-(-count // PART))), out, aside)
    seconds = time.monotonic() - begun
    errors = counts.pop(None, 0)
    classes = dict(sorted(counts.items(), key=lambda each: (-each[1], str(each[0]))))
    report(pipeline, classes, errors)
    kept = f" ({count - fresh:,} by a run before)" if fresh < count else ""
    words = f"{count:,} rows{kept}, {errors:,} of them errors, {fresh / seconds:,.0f} files/s, in {out}"
    summary = {"rows": count, "scored": fresh, "errors": errors, "seconds": seconds, "classes": classes}
    return Completed(name="Scored", message=words, data=summary)


def ask(bulk: Bulk, folder: Path, parts: Path, count: int) -> int:
    """Leave every part that is not there; return how many files that were."""
    fresh, shown, begun = 0, time.monotonic(), time.monotonic()
    with ThreadPoolExecutor(2 * bulk.in_flight) as pool:  # while some wait for answers, others read and check
        for number, paths in enumerate(rows.cut(rows.walk(folder), PART)):
            if rows.place(parts, number).exists():
                continue
            found: list[Row] = []
            for some in pool.map(bulk.rows, list(rows.cut(iter(paths), bulk.batch))):
                found += some
                if time.monotonic() - shown >= terminal.PROGRESS_S:
                    shown = time.monotonic()
                    rate = (fresh + len(found)) / (shown - begun)
                    terminal.say(f"  {number * PART + len(found):,} of {count:,} files, {rate:,.0f} files/s")
            rows.write(rows.place(parts, number), found)
            fresh += len(paths)
    return fresh


def report(pipeline: str, classes: dict[Any, int], errors: int) -> None:
    """Leave a table of what was found on the Prefect run."""
    table = [{"answer": label, "files": count} for label, count in [*classes.items(), ("error", errors)]]
    create_table_artifact(table, key=f"score-{pipeline.replace('_', '-')}", description=f"Scored with {pipeline}")
