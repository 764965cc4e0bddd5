"""quantize: one ONNX file per precision and dialect; precision lives in the file, not in builder flags."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from tasks import atomic
from tasks.params import distinct
from tasks.workload import part

BATCH = 64

# What each family of runtimes wants of explicit Q/DQ INT8.
DIALECTS: dict[str, dict[str, Any]] = {
    "onnxruntime": {"activation": "QUInt8", "extra": {}},
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
    precisions: Annotated[list[Literal["fp32", "int8"]], Field(min_length=1), AfterValidator(distinct)],
) -> None:
    """Leave `fp32.onnx`, `int8.<dialect>.onnx` and `quantize.json` (precision -> dialect -> file) in `out`.

    INT8 is explicit Q/DQ with per-channel weights, its ranges the minimum and maximum over the calibration split.
    """
    spec = json.loads((prepare / "spec.json").read_text())
    files: dict[str, dict[str, str]] = {}
    with atomic.folder(out) as folder:
        if "fp32" in precisions:
            shutil.copyfile(export / "model.onnx", folder / "fp32.onnx")
            files["fp32"] = dict.fromkeys(DIALECTS, "fp32.onnx")
        if "int8" in precisions:
            calibration = list(part(workload, "data").arrays(prepare, "calibration", spec, BATCH))
            files["int8"] = {dialect: f"int8.{dialect}.onnx" for dialect in DIALECTS}
            for dialect, name in files["int8"].items():
                to_int8(export / "model.onnx", folder / name, [x for x, _ in calibration], dialect)
        images = spec["counts"]["calibration"] if "int8" in precisions else 0
        atomic.write_json(folder / "quantize.json", {"files": files, "calibration_images": images})
    print(f"{', '.join(precisions)}; {images:,} calibration images")


def to_int8(source: Path, out: Path, calibration: list[Any], dialect: str) -> None:
    """Write the Q/DQ form of an ONNX model for one family of runtimes."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    cleaned = out.with_suffix(".cleaned")
    quant_pre_process(str(source), str(cleaned), skip_symbolic_shape=True)
    quantize_static(
        str(cleaned),
        str(out),
        Reader(calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType[DIALECTS[dialect]["activation"]],
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options=DIALECTS[dialect]["extra"],
    )
    cleaned.unlink()
    model = onnx.load(out)
    properties = {p.key: p.value for p in onnx.load(source).metadata_props}
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, out)


class Reader:
    """Feeds calibration batches to the quantiser; a `CalibrationDataReader` by shape."""

    def __init__(self, batches: list[Any]) -> None:
        self.left: Iterator[Any] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch as the model's inputs, None at the end."""
        x = next(self.left, None)
        return None if x is None else {"input": x}
