"""imported: in the place of train, an ONNX model that others trained, known by its SHA-256 and judged the same way."""

import csv
import json
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tasks import atomic, digest, pictures
from tasks.interval import wilson
from tasks.trained import IMPORTED, session
from tasks.workload import part

TIMEOUT_S, BATCH = 60, 256


def imported(
    workload: str,
    prepare: Path,
    augment: Path,
    out: Path,
    curves: Path,
    metrics: Path,
    *,
    target: Annotated[float, Field(gt=0, lt=1)],
    confidence: Annotated[float, Field(ge=0, lt=1)],
    onnx: Annotated[str, Field(min_length=1)],
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")],
) -> None:
    """Leave `model.onnx` (`input` -> `logits`) in `out`, a curve of one point, and the verdict in `metrics`.

    `onnx` is a path or an HTTPS address of one file without external data, float32 [batch, *shape of the input] ->
    float32 [batch, classes]. `ValueError` where it is another file than `sha256` says, or does not fit the data.
    """
    spec = json.loads((prepare / "spec.json").read_text())
    with atomic.folder(out) as folder:
        content = bring(onnx)
        if digest.of_bytes(content) != sha256:
            raise ValueError(
                f"{onnx}: SHA-256 is {digest.of_bytes(content)}, params.yaml: imported.sha256 wants {sha256}"
            )
        (folder / IMPORTED).write_bytes(fitted(content, spec, onnx))
        verdict = judged(workload, prepare, spec, folder / IMPORTED, target, confidence)
    point = {"epoch": 0, "step": 0, "seconds": 0.0, "validation": verdict["value"]}
    point |= {name: verdict[name] for name in ("low", "high")}
    with atomic.folder(curves) as drawn:
        with (drawn / "curves.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(point))
            writer.writeheader()
            writer.writerow(point)
        pictures.curves(drawn / "curves.png", [point], target, verdict["metric"])
    atomic.write_json(metrics, verdict | {"fingerprint": sha256[:16]})
    print(f"imported, not trained: validation {verdict['value']:.4f}")


def bring(source: str) -> bytes:
    """Read a file, or download it; `ValueError` says why not."""
    try:
        if not source.startswith("https://"):
            return Path(source).read_bytes()
        with urllib.request.urlopen(source, timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read()
        return content
    except (OSError, HTTPException) as error:
        raise ValueError(f"params.yaml: imported.onnx: {source}: {error}") from None


def fitted(content: bytes, spec: dict[str, Any], source: str) -> bytes:
    """Return a model with its tensors named `input` and `logits`; `ValueError` where it can't take our data."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(content)
        if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer):
            raise ValueError(f"{source}: its weights lie in other files; save it as one (save_as_external_data=False)")
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise ValueError(f"{source}: no valid ONNX model: {str(error).splitlines()[0]}") from None
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ValueError(f"{source}: {len(inputs)} inputs and {len(graph.output)} outputs; it needs one of each")
    for value, expected in ((inputs[0], spec["shape"]), (graph.output[0], [len(spec["classes"])])):
        first, *rest = value.type.tensor_type.shape.dim or [None]
        if first is None or first.dim_value or [dim.dim_value for dim in rest] != expected:
            found = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            raise ValueError(
                f"{source}: '{value.name}' is {found}, but the data wants ['batch', {str(expected)[1:]}; export it "
                "with a dynamic batch, and set prepare.input and prepare.classes as it was trained"
            )
    rename(graph, {inputs[0].name: "input", graph.output[0].name: "logits"})
    return bytes(model.SerializeToString())


def rename(graph: Any, names: dict[str, str]) -> None:
    """Give tensors of a graph other names."""
    for value in [*graph.input, *graph.output]:
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def judged(
    workload: str, prepare: Path, spec: dict[str, Any], model: Path, target: float, confidence: float
) -> dict[str, Any]:
    """Score the model on validation, as training would."""
    scoring = part(workload, "score")
    batches = part(workload, "data").arrays(prepare, "validation", spec, BATCH)
    count, *_ = scoring.score(session(model), batches, spec["classes"])
    low, high = wilson(count["correct"], count["n"])
    return {
        "target": target,
        "confidence": confidence,
        "reached": wilson(count["correct"], count["n"], confidence)[0] >= target,
        "metric": scoring.METRIC,
        "value": count["correct"] / count["n"],
        "low": low,
        "high": high,
        "n": count["n"],
        "epochs": 0,
    }
