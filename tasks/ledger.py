"""What a run in MLflow holds: params, metrics, reports, pictures, a nested run per engine, the model."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.champion import register, version_of
from tasks.mirror import RUN_KEY, log

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

LONGEST_PARAM = 6000  # characters that MLflow takes
LONGEST_DIGEST = 36
PAGE = "report.html"
HEADLINES = ("accuracy", "p50_ms", "p99_ms", "images_per_s", "size_bytes")  # of the chosen engine, on the run itself
TABLE = {
    "engine": "{}",
    "accuracy": "{:.4f}",
    "p50_ms": "{:.2f}",
    "p99_ms": "{:.2f}",
    "images_per_s": "{:,.0f}",
    "size_bytes": "{:,}",
    "verdict": "{}",
}


def fill(
    client: "MlflowClient",
    run: "Run",
    pipeline: str,
    params: dict[str, Any],
    deps: dict[str, Path],
    found: dict[str, Any],
    tags: dict[str, str],
) -> str | None:
    """Write everything to a run and end it; return its model version, None where no engine was chosen.

    Every step may be repeated after an interruption and leaves nothing twice.
    """
    select, stamp = found["select"], run.info.start_time
    best: dict[str, Any] = next((row for row in select["rows"] if row["engine"] == select["chosen"]), {})
    metrics = [*scalars(found, stamp), *scalars({name: best.get(name) for name in HEADLINES}, stamp)]
    log(client, run.info.run_id, metrics, texts(params), tags | {"mlflow.note.content": markdown(select["rows"])})
    name_data(client, run.info.run_id, pipeline, tags["data_hash"], found["prepare/spec"])
    attach(client, run.info.run_id, deps, found)
    engines: dict[str, Any] = {}
    for name, report in found.items():
        if name.startswith("build/"):
            engines |= report
    nest(client, run, engines, deps["build"], found)
    number = None
    if select["chosen"]:
        own = {"engine": select["chosen"], "sha256": engines[select["chosen"]]["sha256"], RUN_KEY: tags[RUN_KEY]}
        packaged = deps["package"] / found["package"]["engine_folder"]
        said = ", ".join(f"{name} {TABLE[name].format(best[name])}" for name in HEADLINES if best.get(name) is not None)
        number = version_of(client, pipeline, run.info.run_id) or register(client, pipeline, run, packaged, own, said)
    client.set_terminated(run.info.run_id, "FINISHED")
    return number


def name_data(client: "MlflowClient", run_id: str, pipeline: str, digest: str, spec: dict[str, Any]) -> None:
    """Say which data a run was trained on, as MLflow's pages filter runs by."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    source = json.dumps({"uri": f"data/prepare/{pipeline}"})
    data = Dataset(pipeline, digest[:LONGEST_DIGEST], "local", source, profile=json.dumps(spec["counts"]))
    client.log_inputs(run_id, [DatasetInput(data, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])])


def attach(client: "MlflowClient", run_id: str, deps: dict[str, Path], found: dict[str, Any]) -> None:
    """Store the page for people, the reports, the training curve and every picture as files of a run."""
    for name, report in found.items():
        client.log_text(run_id, json.dumps(report, indent=2, ensure_ascii=False), f"reports/{name}.json")
    client.log_artifact(run_id, str(deps["curves"] / "curves.csv"), "reports/train")
    for weights in deps["train"].glob("*.safetensors"):  # that another training may start from
        client.log_artifact(run_id, str(weights), "weights")
    for name, path in deps.items():
        for picture in sorted(path.glob("*.png")):
            client.log_artifact(run_id, str(picture), f"pictures/{name}")
    with tempfile.TemporaryDirectory() as aside:
        for source, name, folder in ((deps["picture"], "budget.png", "pictures"), (deps["report"], PAGE, None)):
            named = shutil.copyfile(source, Path(aside) / name)
            client.log_artifact(run_id, str(named), folder)


def nest(client: "MlflowClient", run: "Run", engines: dict[str, Any], build: Path, found: dict[str, Any]) -> None:
    """Leave one nested run per engine, with its passport, numbers and bytes; those of an earlier attempt go.

    Bytes are uploaded once: a run whose engine another run holds names it in its tag `bytes`.
    """
    verdicts = {row["engine"]: row["verdict"] for row in found["select"]["rows"]}
    parent = {"mlflow.parentRunId": run.info.run_id, "mlflow.source.name": "engineworks"}
    for old in client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'"):
        client.delete_run(old.info.run_id)
    for name, passport in engines.items():
        tags = parent | {"verdict": verdicts.get(name, ""), "sha256": passport["sha256"]}
        child = client.create_run(run.info.experiment_id, run.info.start_time, tags, run_name=name)
        numbers = {"size_bytes": passport["size_bytes"], "build_seconds": passport["built"]["seconds"]}
        for stage in ("evaluate", "measure"):
            numbers |= found[stage]["rows"].get(name, {})
        properties = texts(passport)
        if "not_measured" in numbers:
            properties["not_measured"] = numbers["not_measured"]
        log(client, child.info.run_id, scalars(numbers, run.info.start_time), properties)
        client.log_text(child.info.run_id, json.dumps(passport, indent=2), "passport.json")
        upload(client, child, build / passport["backend"] / passport["file"])
        client.set_terminated(child.info.run_id, "FINISHED")


def upload(client: "MlflowClient", run: "Run", engine: Path) -> None:
    """Store an engine's bytes with its run, or name the run that has them."""
    same = f"tags.sha256 = '{run.data.tags['sha256']}' AND tags.bytes = 'here'"
    held = client.search_runs([run.info.experiment_id], same, max_results=1)
    if not held:
        client.log_artifact(run.info.run_id, str(engine))
    client.set_tag(run.info.run_id, "bytes", f"runs:/{held[0].info.run_id}/{engine.name}" if held else "here")


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the results as a table that MLflow shows as the run's description."""
    lines = [" | ".join(TABLE), " | ".join("---" for _ in TABLE)]
    for row in rows:
        cells = ("-" if row.get(name) is None else form.format(row[name]) for name, form in TABLE.items())
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def scalars(tree: dict[str, Any], stamp: int) -> "Iterator[Metric]":
    """Turn the numbers of a tree into metrics named by their path; a yes is 1, a no is 0."""
    from mlflow.entities import Metric

    for path, value in leaves(tree):
        if isinstance(value, int | float):
            name = "/".join(part.replace("/", "_") for part in path if part != "rows")
            yield Metric(plain(name), float(value), stamp, 0)


def texts(tree: dict[str, Any]) -> dict[str, str]:
    """Turn a tree into params named by their path: `train.target` -> `0.9`."""
    found = {}
    for path, value in leaves(tree):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        found[plain(".".join(path))] = text[:LONGEST_PARAM]
    return found


def leaves(tree: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Walk the ends of a tree of mappings, with the path to each; a list is an end."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*above, str(name)))
        else:
            yield (*above, str(name)), value


def plain(name: str) -> str:
    """Replace what MLflow does not take in a name."""
    return re.sub(r"[^\w.\- /]", "_", name)
