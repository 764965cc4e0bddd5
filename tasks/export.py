"""export: the trained network as ONNX with a dynamic batch, proved against torch."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tasks import atomic, trained
from tasks.digest import sha256

BATCHES = (1, 7, 64)


def export(
    prepare: Path,
    train: Path,
    out: Path,
    *,
    max_difference: Annotated[float, Field(gt=0, le=1)],
) -> None:
    """Leave `model.onnx` (`input` -> `logits`, classes and preprocessing in its metadata) and `export.json` in `out`.

    ONNX Runtime must answer batches of 1, 7 and 64, and agree with the original on the golden batch within
    `max_difference` (largest absolute difference of a logit); otherwise `ValueError`.
    """
    from safetensors.numpy import load_file

    spec = json.loads((prepare / "spec.json").read_text())
    golden = load_file(prepare / "golden.safetensors")["input"]
    model, weights = converted(train, spec, golden[:2])
    reference, predict = trained.original(train, spec)
    with atomic.folder(out) as folder:
        describe(model, spec, weights)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        difference = prove(folder / "model.onnx", predict(golden), golden)
        if difference > max_difference:
            raise ValueError(
                f"ONNX differs from {reference} by {difference:.2e} on the golden batch; params.yaml: "
                f"export.max_difference allows {max_difference:.2e}"
            )
        facts = {"opset": model.opset_import[0].version, "max_difference": difference, "batches": list(BATCHES)}
        atomic.write_json(folder / "export.json", {**facts, "weights_sha256": weights})
    print(f"opset {facts['opset']}, at most {difference:.1e} from {reference}")


def converted(train: Path, spec: dict[str, Any], example: Any) -> tuple[Any, str]:
    """Return the network as ONNX, and the SHA-256 of what it was made from; an imported one is ONNX already."""
    import onnx

    imported = train / trained.IMPORTED
    if imported.exists():
        return onnx.load(imported, load_external_data=False), sha256(imported)
    return convert(trained.network(train, spec), example), sha256(train / "weights.safetensors")


def convert(network: Any, example: Any) -> Any:
    """Return the network as a checked ONNX model; source paths, which the exporter embeds, are taken out."""
    import onnx
    import torch

    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.onnx.export(
        network,
        (torch.from_numpy(example),),
        dynamo=True,
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        del value.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def describe(model: Any, spec: dict[str, Any], weights: str) -> None:
    """Put the classes, the preprocessing spec and the hash of the weights into the model's metadata."""
    import onnx

    preprocessing = {key: spec[key] for key in spec.keys() - {"workload", "classes", "counts", "shape"}}
    facts = {
        "classes": json.dumps(spec["classes"]),
        "preprocessing": json.dumps(preprocessing, sort_keys=True),
        "spec_sha256": hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest(),
        "weights_sha256": weights,
    }
    onnx.helper.set_model_props(model, facts)


def prove(path: Path, expected: Any, golden: Any) -> float:
    """Run ONNX Runtime at several batch sizes; return the largest difference from what the golden batch should give."""
    import numpy as np

    predict = trained.session(path)
    for size in BATCHES:
        shape = predict(np.resize(golden, (size, *golden.shape[1:]))).shape
        if shape != (size, expected.shape[1]):
            raise ValueError(f"ONNX Runtime gave {shape} for a batch of {size}")
    return float(np.abs(predict(golden) - expected).max())
