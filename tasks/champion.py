"""A pipeline's registered model: a version per recorded run; `champion` serves, `previous` did, `candidate` may."""

import json
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import pictures, settings
from tasks.mirror import LONGEST_TAG, RUN_KEY, connect, local_database, tagged

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.models import ModelSignature

ALIAS, BEFORE, NEXT = "champion", "previous", "candidate"
CODE = Path(__file__).parents[1] / "infra" / "mlflow" / "model.py"
PACKAGE = "package"  # tag of a run: SHA-256 of the packaged model repository
NOT_LIVE = "not_deployed"  # tag of a run: why its package did not go live
MODEL_VERSIONS = "mlflow.modelVersions"  # by which MLflow's page of models leads to the registry
WHO = "`champion` serves, `previous` did before it, `candidate` was recorded last."
RECEIPTS = Path("models/record")


def promote(pipeline: str, receipt: dict[str, Any]) -> None:
    """Write the accuracy measured through the server to the run that made the package, and move `champion` to it.

    `receipt` is deploy's: `sha256` of the package, `served_accuracy`, `low`, `high`. Of several runs with this very
    package the one recorded last here is meant. Nothing is written where all is so already; an older receipt moves the
    alias back. `ValueError` where MLflow holds no model of this package.
    """
    client, experiment_id = connect(pipeline)
    path = RECEIPTS / f"{pipeline}.json"
    recorded = json.loads(path.read_text())["run_key"] if path.exists() else None
    runs = [run for run in tagged(client, experiment_id, PACKAGE, receipt["sha256"]) if run.info.status == "FINISHED"]
    run = max(runs, key=lambda run: run.data.tags[RUN_KEY] == recorded, default=None)  # else the newest
    number = version_of(client, pipeline, run.info.run_id) if run else None
    if run is None or number is None:
        raise ValueError(f"MLflow holds no model of the package of '{pipeline}' that is served; run the record stage")
    served = {f"served_{name.removeprefix('served_')}": receipt[name] for name in ("served_accuracy", "low", "high")}
    new = {name: value for name, value in served.items() if run.data.metrics.get(name) != value}
    for name, value in new.items():
        client.log_metric(run.info.run_id, name, value)
    if new:
        draw(client, run.info.run_id, receipt.get("budget", []))
    if run.data.tags.get("deployed") != "yes":
        client.set_tag(run.info.run_id, "deployed", "yes")
    if NOT_LIVE in run.data.tags:
        client.delete_tag(run.info.run_id, NOT_LIVE)
    crown(client, pipeline, number)


def note(pipeline: str, package: str | None, reason: str) -> None:
    """Say on the runs that made a package why it did not go live."""
    client, experiment_id = connect(pipeline)
    for run in tagged(client, experiment_id, PACKAGE, package) if package else []:
        client.set_tag(run.info.run_id, NOT_LIVE, reason[:LONGEST_TAG])


def crown(client: "MlflowClient", pipeline: str, number: str) -> None:
    """Move `champion` to a version, and `previous` to the one that had it; a candidate it is no more."""
    aliases = {alias: str(version) for alias, version in client.get_registered_model(pipeline).aliases.items()}
    if aliases.get(ALIAS) != number:
        if ALIAS in aliases:
            client.set_registered_model_alias(pipeline, BEFORE, aliases[ALIAS])
        client.set_registered_model_alias(pipeline, ALIAS, number)
    if aliases.get(NEXT) == number:
        client.delete_registered_model_alias(pipeline, NEXT)


def draw(client: "MlflowClient", run_id: str, rungs: list[dict[str, Any]]) -> None:
    """Put the accuracy budget, down to what was served, in the place of the one that ends at the engine."""
    if rungs:
        with tempfile.TemporaryDirectory() as aside:
            pictures.budget(Path(aside) / "budget.png", rungs)
            client.log_artifact(run_id, str(Path(aside) / "budget.png"), "pictures")
        client.log_text(run_id, json.dumps(rungs, indent=2), "reports/budget.json")


def version_of(client: "MlflowClient", pipeline: str, run_id: str) -> str | None:
    """Return the number of the version that a run registered, None where it has none."""
    found = client.search_model_versions(f"run_id = '{run_id}'")
    numbers = [int(item.version) for item in found if item.name == pipeline]
    return str(max(numbers)) if numbers else None


def register(
    client: "MlflowClient", pipeline: str, run: "Run", engine: Path, tags: dict[str, str], description: str
) -> str:
    """Store a packaged engine as a model that `mlflow.pyfunc` loads, and register it as candidate; return its number.

    `engine` is the folder that the server runs: the engine, its passport, its backend's file and the facts.
    """
    from mlflow.entities import LoggedModelOutput

    run_id, experiment_id = run.info.run_id, run.info.experiment_id
    for leftover in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
        client.delete_logged_model(leftover.model_id)
    model = client.create_logged_model(experiment_id, pipeline, run_id, tags=tags, model_type="engine")
    with tempfile.TemporaryDirectory() as aside:
        save(engine, Path(aside) / "model", run_id, model.model_id)
        client.log_model_artifacts(model.model_id, str(Path(aside) / "model"))
    model = client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    if not client.search_registered_models(f"name = '{pipeline}'"):
        client.create_registered_model(pipeline, description=WHO)
    # Without a server, `models:/...` would be looked up in MLflow's global store, which need not be this client's.
    database = local_database(settings.tracking_uri())
    source = model.artifact_location if database else f"models:/{model.model_id}"
    created = client.create_model_version(
        pipeline, source, run_id, tags, description=description, model_id=model.model_id
    )
    known = json.dumps([{"name": pipeline, "version": str(created.version)}])
    client.set_logged_model_tags(model.model_id, {MODEL_VERSIONS: known})
    client.set_registered_model_alias(pipeline, NEXT, str(created.version))
    return str(created.version)


def save(engine: Path, folder: Path, run_id: str, model_id: str) -> None:
    """Write MLflow's folder for an engine: code and files, no pickle."""
    import mlflow.pyfunc
    from mlflow.models import Model

    (passport,) = (json.loads(path.read_text()) for path in engine.glob("*.passport.json"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example.*")  # the signature is written, not guessed
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(CODE),
            artifacts={"engine": str(engine)},
            mlflow_model=Model(run_id=run_id, model_id=model_id),
            signature=signature(passport["tensors"]),
            pip_requirements=[passport["requires"], "numpy", f"mlflow=={version('mlflow')}"],
        )
    written = Model.load(str(folder))
    written.flavors["python_function"]["model_code_path"] = CODE.name  # it was the path on this machine; not needed
    written.save(str(folder / "MLmodel"))


def signature(tensors: dict[str, list[dict[str, Any]]]) -> "ModelSignature":
    """Return the names, types and shapes of an engine's tensors, and of the label; an open dimension is -1."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(values: list[dict[str, Any]]) -> list[TensorSpec]:
        shapes = [[size if isinstance(size, int) else -1 for size in value["shape"]] for value in values]
        types = [np.dtype(np.float32) for _ in values]
        return [TensorSpec(t, tuple(s), v["name"]) for t, s, v in zip(types, shapes, values, strict=True)]

    answers = [*schema(tensors["outputs"]), TensorSpec(np.dtype("str"), (-1,), "label")]
    return ModelSignature(inputs=Schema(schema(tensors["inputs"])), outputs=Schema(answers))
