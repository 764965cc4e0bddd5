"""The registered model of a pipeline: one version per recorded run, the alias `champion` on the one that serves."""

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import settings
from tasks.mirror import RUN_KEY, connect, local_database, tagged

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.models import ModelSignature

ALIAS = "champion"
PACKAGE = "package"  # tag of a run: SHA-256 of the packaged model repository
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
    for name, value in served.items():
        if run.data.metrics.get(name) != value:
            client.log_metric(run.info.run_id, name, value)
    if run.data.tags.get("deployed") != "yes":
        client.set_tag(run.info.run_id, "deployed", "yes")
    if str(client.get_registered_model(pipeline).aliases.get(ALIAS)) != number:
        client.set_registered_model_alias(pipeline, ALIAS, number)


def version_of(client: "MlflowClient", pipeline: str, run_id: str) -> str | None:
    """Return the number of the version that a run registered, None where it has none."""
    found = client.search_model_versions(f"run_id = '{run_id}'")
    numbers = [int(item.version) for item in found if item.name == pipeline]
    return str(max(numbers)) if numbers else None


def register(client: "MlflowClient", pipeline: str, run: "Run", onnx_file: Path, tags: dict[str, str]) -> str:
    """Store an ONNX file as a model that `mlflow.pyfunc` loads, and register it; return its version's number."""
    from mlflow.entities import LoggedModelOutput

    run_id, experiment_id = run.info.run_id, run.info.experiment_id
    for leftover in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
        client.delete_logged_model(leftover.model_id)
    model = client.create_logged_model(experiment_id, pipeline, run_id, tags=tags, model_type="onnx")
    with tempfile.TemporaryDirectory() as aside:
        save(onnx_file, Path(aside) / "model", run_id, model.model_id)
        client.log_model_artifacts(model.model_id, str(Path(aside) / "model"))
    model = client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    if not client.search_registered_models(f"name = '{pipeline}'"):
        client.create_registered_model(pipeline)
    # Without a server, `models:/...` would be looked up in MLflow's global store, which need not be this client's.
    database = local_database(settings.tracking_uri())
    source = model.artifact_location if database else f"models:/{model.model_id}"
    created = client.create_model_version(pipeline, source, run_id, tags=tags, model_id=model.model_id)
    return str(created.version)


def save(onnx_file: Path, folder: Path, run_id: str, model_id: str) -> None:
    """Write MLflow's folder for an ONNX file: runs on ONNX Runtime's CPU, in one file."""
    import mlflow.onnx
    import onnx
    from mlflow.models import Model

    network = onnx.load(onnx_file)
    mlflow.onnx.save_model(
        network,
        folder,
        mlflow_model=Model(run_id=run_id, model_id=model_id),
        signature=signature(network),
        pip_requirements=[f"onnxruntime=={version('onnxruntime')}", "numpy", f"onnx=={version('onnx')}"],
        onnx_execution_providers=["CPUExecutionProvider"],  # MLflow's default warns on a machine without a GPU
        save_as_external_data=False,
    )


def signature(network: Any) -> "ModelSignature":
    """Return the names, types and shapes of an ONNX model's tensors; an open dimension is -1."""
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(values: Any) -> Schema:
        tensors = [(value.name, value.type.tensor_type) for value in values]
        return Schema(
            [
                TensorSpec(
                    onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type),
                    tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim),
                    name,
                )
                for name, tensor in tensors
            ]
        )

    return ModelSignature(inputs=schema(network.graph.input), outputs=schema(network.graph.output))
