"""record: one run in MLflow per set of inputs, and the receipt that says where."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tasks import atomic
from tasks.champion import PACKAGE, version_of
from tasks.champion import note as note
from tasks.champion import promote as promote
from tasks.digest import sha256
from tasks.ledger import fill
from tasks.mirror import FINGERPRINT, RUN_KEY, connect, is_faithful, mirror, tagged

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ROOT = Path(__file__).parents[1]
CODE = [f"tasks/{name}.py" for name in ("record", "ledger", "champion", "mirror", "digest")]  # as dvc.yaml lists them
CODE += ["infra/mlflow/model.py"]


def record(
    pipeline: str,
    backends: list[str],
    params: dict[str, Any],
    prepare: Path,
    augment: Path,
    train: Path,
    curves: Path,
    train_metrics: Path,
    export: Path,
    quantize: Path,
    build: Path,
    evaluate: Path,
    measure: Path,
    select: Path,
    picture: Path,
    report: Path,
    package: Path,
    out: Path,
) -> None:
    """Leave one finished MLflow run for these inputs, and its receipt `out`; where both are there, change nothing.

    A run that was interrupted, or that followed the training, is completed; where MLflow was emptied, the run is
    recorded again. `ValueError` where MLflow does not answer.
    """
    deps = dict(prepare=prepare, augment=augment, train=train, curves=curves, train_metrics=train_metrics)
    deps |= dict(
        export=export,
        quantize=quantize,
        build=build,
        evaluate=evaluate,
        measure=measure,
        select=select,
        picture=picture,
        report=report,
        package=package,
    )
    receipt = keep(pipeline, backends, params, deps)
    if not out.exists() or json.loads(out.read_text()) != receipt:
        atomic.write_json(out, receipt)


def heal(pipeline: str) -> None:
    """Record a pipeline's run again where MLflow was emptied since; the receipt, an output of DVC, stays as it is.

    What the run is made of is read from the stage's own command in dvc.yaml.
    """
    from tasks.command import bind
    from tasks.params import read

    command = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]["record"]["do"]["cmd"]
    words = command.replace("${key}", pipeline).split()
    _, arguments = bind(words[words.index("record") :], read())
    asked = {name: arguments.pop(name) for name in ("pipeline", "backends", "params")}
    keep(**asked, deps={name: Path(path) for name, path in arguments.items() if name != "out"})


def keep(pipeline: str, backends: list[str], params: dict[str, Any], deps: dict[str, Path]) -> dict[str, Any]:
    """See to it that MLflow holds the run of these inputs, finished and with its model; return the receipt."""
    hashes = digests(deps)
    key = run_key(hashes, params, backends)
    chosen = json.loads(deps["select"].read_text())["chosen"]
    client, experiment_id = connect(pipeline)
    run = next((run for run in tagged(client, experiment_id, RUN_KEY, key) if run.info.status == "FINISHED"), None)
    number = version_of(client, pipeline, run.info.run_id) if run and chosen else None
    if run is None or (chosen and number is None):
        run = own_run(client, experiment_id, pipeline, key, deps["train_metrics"], deps["curves"] / "curves.csv")
        found = reports(deps, backends)
        tags = {RUN_KEY: key, "data_hash": data_hash(hashes), **facts(found)}
        number = fill(client, run, pipeline, params | {"backends": backends}, deps, found, tags)
        print(f"MLflow run {pipeline}-{key[:8]}, " + (f"model version {number}" if number else "no model"))
    return {"run_key": key, "engine": chosen}


def digests(deps: dict[str, Path]) -> dict[str, str]:
    """Return the SHA-256 of every file of record's inputs and of its own code, by name (`prepare/spec.json`)."""
    files = {name: ROOT / name for name in CODE}
    for name, path in deps.items():
        below = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        files |= {(name / file.relative_to(path)).as_posix(): file for file in below}
    return {name: sha256(files[name]) for name in sorted(files)}


def run_key(hashes: dict[str, str], params: dict[str, Any], backends: list[str]) -> str:
    """Return the name of a run: a SHA-256 over its inputs, its pipeline's whole block of params.yaml, its backends."""
    content = json.dumps([hashes, params, backends], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def data_hash(hashes: dict[str, str]) -> str:
    """Return a SHA-256 over the shards of the prepared data."""
    shards = {name: digest for name, digest in hashes.items() if name.startswith("prepare/") and name.endswith(".tar")}
    return hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest()


def own_run(
    client: "MlflowClient", experiment_id: str, pipeline: str, key: str, train_metrics: Path, curves: Path
) -> "Run":
    """Return the run to fill: an unfinished one of this key, else the one that followed the training, else a new one.

    Any other run of this key or this training that nobody finished is deleted, so that one is left.
    """
    fingerprint = json.loads(train_metrics.read_text())["fingerprint"]
    live = tagged(client, experiment_id, FINGERPRINT, fingerprint)
    candidates = tagged(client, experiment_id, RUN_KEY, key)
    candidates += [run for run in live if RUN_KEY not in run.data.tags and run.info.status != "FINISHED"]
    own = None
    for run in candidates:
        mirror(curves, run.info.run_id, 0)
        if own is None and is_faithful(client, run.info.run_id, curves):
            own = run
        else:
            client.delete_run(run.info.run_id)
    if own is None:
        tags = {RUN_KEY: key, FINGERPRINT: fingerprint, "mlflow.source.name": "engineworks"}
        own = client.create_run(experiment_id, tags=tags, run_name=f"{pipeline}-{key[:8]}")
        mirror(curves, own.info.run_id, 0)
    client.update_run(own.info.run_id, name=f"{pipeline}-{key[:8]}")
    return own


def reports(deps: dict[str, Path], backends: list[str]) -> dict[str, Any]:
    """Return every JSON report by name: `evaluate`, `prepare/spec`, `build/onnxruntime`."""
    found = {}
    for name, path in deps.items():
        for file in sorted(path.glob("*.json")) if path.is_dir() else [path] if path.suffix == ".json" else []:
            label = name if path.is_file() or file.stem == name else f"{name}/{file.stem}"
            found[label] = json.loads(file.read_text())
    return found | {f"build/{name}": passports(deps["build"] / name) for name in backends}


def passports(build: Path) -> dict[str, Any]:
    """Return the passports of one backend's engines, by engine."""
    files = json.loads((build / "build.json").read_text())["engines"]
    return {name: json.loads((build / f"{file}.passport.json").read_text()) for name, file in files.items()}


def facts(found: dict[str, Any]) -> dict[str, str]:
    """Return the tags that say where a run comes from and what became of it."""
    verdict = "passed" if found["train_metrics"]["reached"] else "target not reached"
    commit = git_commit()
    return {
        "verdict": verdict if found["select"]["chosen"] else "refused",
        "engine": found["select"]["chosen"] or "none",
        PACKAGE: found["package"].get("sha256", "none"),
        "git_commit": commit,
        "flow_run_id": os.environ.get("PREFECT__FLOW_RUN_ID", "none"),
    } | ({} if commit == "unknown" else {"mlflow.source.git.commit": commit})


def git_commit() -> str:
    """Return the commit of the working tree, `unknown` without git or a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"
