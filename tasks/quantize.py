"""quantize: one ONNX file per precision and dialect; precision lives in the file, not in builder flags."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from tasks import atomic, calibration, digest, numerics
from tasks.params import AtMost, distinct
from tasks.workload import part

CHECKED = 32  # calibration samples that the layers are compared on

# What each family of runtimes wants of explicit Q/DQ INT8.
DIALECTS: dict[str, dict[str, Any]] = {
    "cpu": {"activation": "QUInt8", "extra": {}},
    # TensorRT: symmetric throughout, biases left in float (it refuses int32 DequantizeLinear).
    "tensorrt": {
        "activation": "QInt8",
        "extra": {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "DedicatedQDQPair": True,
            "AddQDQPairToWeight": True,
        },
    },
}


def quantize(
    workload: str,
    prepare: Path,
    export: Path,
    out: Path,
    *,
    precisions: Annotated[list[Literal["fp32", "fp16", "int8"]], Field(min_length=1), AfterValidator(distinct)],
    min_calibration: Annotated[int, Field(ge=1, le=1_000_000), AtMost("prepare", "calibration")],
) -> None:
    """Leave an ONNX file per precision (and dialect, for INT8) and `quantize.json` in `out`.

    FP16 is typed by NVIDIA's AutoCast, which keeps sensitive nodes in FP32. INT8 is explicit Q/DQ with per-channel
    weights, its ranges the minimum and maximum over the calibration split. `ValueError` where that split is no honest
    sample, where the network has a fixed batch, strange operators or weights that are no numbers, or where a precision
    gives NaN.
    """
    source, facts = export / "model.onnx", prepare / "spec.json"
    code, spec = Path(str(part(workload, "preprocess").__file__)), json.loads(facts.read_text())
    refuse_unrunnable(source)
    refuse_unsound(source)
    batches, audit = calibration.audited(workload, prepare, spec, min_calibration)
    files: dict[str, dict[str, str]] = {}
    with atomic.folder(out) as folder:
        for precision in precisions:
            if precision == "fp32":
                shutil.copyfile(source, folder / "fp32.onnx")
                files["fp32"] = dict.fromkeys(DIALECTS, "fp32.onnx")
            elif precision == "fp16":
                to_fp16(source, folder / "fp16.onnx", batches)
                files["fp16"] = dict.fromkeys(DIALECTS, "fp16.onnx")
            else:
                files["int8"] = {dialect: f"int8.{dialect}.onnx" for dialect in DIALECTS}
                for dialect, name in files["int8"].items():
                    to_int8(source, folder / name, batches, dialect)
        converted = sorted(path for path in folder.glob("*.onnx") if path.stem != "fp32")
        checks = {path.stem: checked(source, path, batches[0][:CHECKED]) for path in converted}
        content = {"files": files, "calibration": audit, "preprocessing_sha256": digest.joint(code, facts)}
        atomic.write_json(folder / "quantize.json", content | {"checks": checks})
    said = [f"{name} {check['logits']['sqnr_db']:.0f} dB" for name, check in checks.items()]
    print(", ".join([f"{audit['samples']:,} calibration images", *said]))


def refuse_unsound(source: Path) -> None:
    """Raise `ValueError` for a network that no precision can mend."""
    import numpy as np
    import onnx

    graph = onnx.load(source).graph
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise ValueError(
                f"{source}: the weights '{tensor.name}' hold NaN or infinities; train again, or import another model"
            )
    weights = {tensor.name for tensor in graph.initializer}
    for value in [value for value in graph.input if value.name not in weights]:
        first = value.type.tensor_type.shape.dim[0]
        if first.dim_value:
            raise ValueError(
                f"{source}: '{value.name}' has a fixed batch of {first.dim_value}; export it with a dynamic batch"
            )


def refuse_unrunnable(source: Path) -> None:
    """Raise `ValueError` in ONNX Runtime's words for a network that it can't load: it calibrates, checks and judges."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has no class of its own for a model that it can't run
        said = str(error).splitlines()[0]
        raise ValueError(f"{source}: ONNX Runtime can't run it: {said}; export it with ONNX's own operators") from None


def checked(source: Path, path: Path, x: Any) -> dict[str, Any]:
    """Return the numerics of a file, and the nodes that compute in FP32 though the rest does not."""
    import onnx

    kept = in_float32(onnx.load(path)) if path.stem == "fp16" else []
    return {"kept_in_fp32": kept, **numerics.report(source, path, x)}


def in_float32(model: Any) -> list[str]:
    """Name the nodes of a typed FP16 model that give float32, the casts at its ends aside."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*inferred.value_info, *inferred.output]}
    nodes = [node for node in inferred.node if node.op_type not in ("Cast", "Constant")]
    return [f"{node.op_type} {node.name}" for node in nodes if types.get(node.output[0]) == onnx.TensorProto.FLOAT]


def to_fp16(source: Path, out: Path, batches: list[Any]) -> None:
    """Write the typed FP16 form: float32 at both ends, nodes whose values reach beyond 512 kept in FP32.

    The bound is AutoCast's own (`data_max`), judged on calibration samples.
    """
    import logging

    import numpy as np
    from modelopt.onnx.autocast import convert_to_mixed_precision

    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory(dir=out.parent) as aside:
        samples = Path(aside) / "calibration.npz"
        np.savez(samples, input=batches[0])
        model = convert_to_mixed_precision(
            onnx_path=str(source),
            low_precision_type="fp16",
            keep_io_types=True,
            calibration_data=str(samples),
            providers=["cpu"],
        )
    logging.disable(logging.NOTSET)
    save(model, out, source)


def to_int8(source: Path, out: Path, batches: list[Any], dialect: str) -> None:
    """Write the Q/DQ form of an ONNX model for one family of runtimes; `batches` are inputs, float32 [n, *shape]."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    cleaned = out.with_suffix(".cleaned")
    quant_pre_process(str(source), str(cleaned), skip_symbolic_shape=True)
    quantize_static(
        str(cleaned),
        str(out),
        Reader(batches),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType[DIALECTS[dialect]["activation"]],
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options=DIALECTS[dialect]["extra"],
    )
    cleaned.unlink()
    save(onnx.load(out), out, source)


def save(model: Any, out: Path, source: Path) -> None:
    """Write a converted model with the properties of its source."""
    import onnx

    onnx.helper.set_model_props(model, {p.key: p.value for p in onnx.load(source).metadata_props})
    onnx.save(model, out)


class Reader:
    """Feeds calibration batches to the quantiser; a `CalibrationDataReader` by shape."""

    def __init__(self, batches: list[Any]) -> None:
        self.left: Iterator[Any] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch as the model's inputs, None at the end."""
        x = next(self.left, None)
        return None if x is None else {"input": x}
