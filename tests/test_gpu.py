"""What only an NVIDIA GPU can show; run by `make gpu-check`, which keeps the outcomes."""

import importlib.util
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import backends, gpu, trt
from tests import networks

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(gpu.missing() is not None, reason=f"{gpu.missing()}")]

Record = Callable[[str, Any], None]
OPTIONS: dict[str, dict[str, Any]] = {
    "tensorrt_rtx": {"compute_capabilities": []},
    "tensorrt": {"hardware_compatibility": "none", "version_compatible": False, "workspace_mb": 256},
}
PRECISIONS = ("fp32", "fp16", "int8")
CLOSE = {"fp32": 5e-3, "fp16": 2e-2, "int8": 5e-2}  # of the largest logit; TF32 and FP16 round to 10 bits
LEVELS = {"PNG": 1.01, "JPEG": 4.0}  # of 255: resizing rounds otherwise, and nvJPEG decodes by another transform


@pytest.fixture
def images() -> Any:
    return np.random.default_rng(3).normal(size=(40, 1, 28, 28)).astype(np.float32)  # more than the engine's batch


def built(name: str, precision: str, folder: Path, images: Any) -> tuple[Any, Path, Path, dict[str, Any]]:
    """Build an engine; return its backend, the ONNX file, the engine and its facts."""
    from tasks.quantize import to_int8

    if name == "tensorrt" and importlib.util.find_spec("tensorrt") is None:
        pytest.skip("TensorRT is not installed: pip install 'engineworks[gpu]'")
    source = networks.convolutional(folder / "fp32.onnx")
    if precision == "fp16":
        source = networks.half(source, folder / "fp16.onnx")
    if precision == "int8":
        to_int8(source, folder / "int8.onnx", [images], "tensorrt")
        source = folder / "int8.onnx"
    module: Any = backends.backend(name)
    engine = folder / f"{precision}{module.SUFFIX}"
    facts = module.build(source, engine, 32, module.Options(**OPTIONS[name]))
    return module, source, engine, facts


def here(name: str) -> dict[str, Any]:
    """Return this machine, as objections want a target."""
    library = importlib.import_module({"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx_bindings"}[name])
    return {"gpu": gpu.first(), "versions": {name: library.__version__}}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", OPTIONS)
def test_objections_foretell_whether_an_engine_loads(
    tmp_path: Path, images: Any, record_property: Record, name: str, precision: str
) -> None:
    module, _, engine, facts = built(name, precision, tmp_path, images)
    reasons = module.objections(engine, facts, here(name))
    record_property("objections", "; ".join(reasons) or "none")
    try:
        module.load(engine, threads=1)(images)
        said = "it does"
    except ValueError as error:
        said = str(error)
    record_property("loads", said)
    assert (said == "it does") is (not reasons), f"objections: {reasons}; loading: {said}"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", OPTIONS)
def test_an_engine_agrees_with_onnx_runtime(
    tmp_path: Path, images: Any, record_property: Record, name: str, precision: str
) -> None:
    import onnxruntime

    module, source, engine, facts = built(name, precision, tmp_path, images)
    reasons = module.objections(engine, facts, here(name))
    if reasons:
        pytest.skip("; ".join(reasons))
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    wanted = session.run(["logits"], {"input": images})[0]
    found = module.load(engine, threads=1)(images)
    difference = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    record_property("difference", difference)
    assert found.shape == wanted.shape and difference < CLOSE[precision]


@pytest.mark.parametrize("name", OPTIONS)
def test_the_inspector_tells_the_layers(tmp_path: Path, images: Any, record_property: Record, name: str) -> None:
    module, _, engine, facts = built(name, "int8", tmp_path, images)
    reasons = module.objections(engine, facts, here(name))
    if reasons:
        pytest.skip("; ".join(reasons))
    library = importlib.import_module({"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx_bindings"}[name])
    told = trt.inspect(library, engine.read_bytes())
    record_property("inspector", json.dumps(told)[:2000])
    assert told and told["Layers"]


@pytest.mark.parametrize("kind", LEVELS)
def test_preprocessing_on_the_gpu_equals_the_cpu(record_property: Record, kind: str) -> None:
    from PIL import Image

    from tasks.modalities.image import preprocess
    from tests.miniature import CLASSES, draw

    generator = np.random.default_rng(0)
    encoded = []
    for number in range(16):
        buffer = io.BytesIO()
        Image.fromarray(draw(generator, number % len(CLASSES))).save(buffer, kind, quality=95)
        encoded.append(np.frombuffer(buffer.getvalue(), np.uint8))
    spec = {"channels": 1, "image_size": 40, "mean": [0.0], "std": [1.0]}  # levels of 0 to 255, enlarged
    found = {}
    for device in ("cpu", "gpu"):
        pipeline = preprocess.serving_pipeline(spec, batch_size=len(encoded), device=device)
        pipeline.feed_input("image", encoded)
        output = pipeline.run()[0]
        found[device] = np.array((output.as_cpu() if device == "gpu" else output).as_array())
    difference = float(np.abs(found["gpu"] - found["cpu"]).max())
    record_property("levels", difference)
    assert found["cpu"].max() > 100 and difference <= LEVELS[kind]


def trained(precision: str, accelerator: str = "gpu", steps: int = 30) -> tuple[list[float], Any]:
    """Take a few training steps on drawn shapes; return the loss of each, and the trainer."""
    import pytorch_lightning as pl
    import torch

    from tasks import networks
    from tasks.learner import Learner
    from tasks.problems.classification import loss
    from tests.miniature import CLASSES, draw

    class Losses(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            seen.append(float(module.loss))

    seen: list[float] = []
    generator = np.random.default_rng(0)
    labels = generator.integers(0, len(CLASSES), 256)
    x = np.stack([draw(generator, int(label)) for label in labels])[:, None].astype(np.float32) / 128 - 1
    data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(labels))
    pl.seed_everything(1)
    built = networks.build({"shape": [1, 28, 28], "classes": CLASSES}, {"name": "small", "width": 16})
    knobs = {"learning_rate": 0.05, "weight_decay": 0.0005, "label_smoothing": 0.1}
    knobs |= {"schedule_epochs": 1, "pretrained": None}
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet["enable_model_summary"] = False
    device: dict[str, Any] = {"accelerator": accelerator, "devices": 1}
    trainer = pl.Trainer(precision=precision, max_steps=steps, callbacks=[Losses()], **device, **quiet)
    learner = Learner(built.to(memory_format=torch.channels_last), loss, knobs, steps_per_epoch=steps)
    trainer.fit(learner, torch.utils.data.DataLoader(data, batch_size=32))
    return seen, trainer


def test_mixed_precision_trains_as_float32_does(record_property: Record) -> None:
    plain, _ = trained("32-true")
    mixed, trainer = trained("16-mixed")
    scaler = trainer.strategy.precision_plugin.scaler
    record_property("losses", json.dumps({"32-true": plain[-5:], "16-mixed": mixed[-5:]}))
    record_property("scale", scaler.get_scale())
    assert len(plain) == len(mixed) == 30 and all(math.isfinite(loss) for loss in (*plain, *mixed))
    assert scaler.is_enabled() and scaler.get_scale() > 1
    assert mixed[0] == pytest.approx(plain[0], rel=1e-2) and np.mean(mixed[-5:]) < 0.9 * mixed[0]
    assert np.mean(mixed[-5:]) == pytest.approx(np.mean(plain[-5:]), rel=0.15)
