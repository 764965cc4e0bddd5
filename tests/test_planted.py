"""Planted faults: each is refused in a sentence that names it and the remedy, and leaves nothing behind."""

import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper
from PIL import Image

from tasks import backends, numerics, shards, target
from tasks.build import build
from tasks.evaluate import evaluate
from tasks.prepare import prepare
from tasks.problems.classification import data
from tasks.quantize import quantize
from tasks.select import select
from tests import miniature, networks, toys

CALIBRATION = 64
OPTIONS = backends.options().model_validate({"tensorrt_rtx": {"compute_capabilities": []}})
BOUNDS: dict[str, Any] = {
    "max_accuracy_drop": 0.01,
    "max_class_drop": 0.05,
    "min_agreement": 0.97,
    "max_p99_ms": 1000,
    "max_size_mb": 10,
}
Samples = list[tuple[bytes, int]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare drawn images once; a test that spoils them takes a copy."""
    root = tmp_path_factory.mktemp("planted")
    miniature.dataset(root / "raw")
    (root / "incoming").mkdir()
    prepare(toys.WORKLOAD, root / "raw", root / "incoming", root / "prepare", **toys.PREPARE)
    return root / "prepare"


def calibrated_on(prepared: Path, folder: Path, samples: Iterable[tuple[bytes, int]]) -> Path:
    """Copy what was prepared, with another calibration split."""
    shutil.copytree(prepared, folder)
    for path in folder.glob("calibration-*"):
        path.unlink()
    shards.write(folder, "calibration", list(samples), 500)
    return folder


def quantized(
    prepare: Path, root: Path, precisions: Iterable[str] = ("fp32", "int8"), least: int = CALIBRATION
) -> Path:
    """Quantize the network in `export`, drawn where it is not there."""
    if not (root / "export").exists():
        (root / "export").mkdir()
        networks.convolutional(root / "export/model.onnx")
    quantize(toys.WORKLOAD, prepare, root / "export", root / "out", precisions=list(precisions), min_calibration=least)
    return root / "out"


def of_hand(folder: Path, network: Callable[[Path], Any]) -> Path:
    """Leave a quantize folder with one FP32 file, whatever it holds."""
    folder.mkdir()
    network(folder / "fp32.onnx")
    files = {"fp32": dict.fromkeys(("cpu", "tensorrt"), "fp32.onnx")}
    content = {"files": files, "calibration": None, "preprocessing_sha256": "0"}
    (folder / "quantize.json").write_text(json.dumps(content))
    return folder


def changed(path: Path, **factors: float) -> Path:
    """Multiply weights of a network by factors."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name in factors:
            array = numpy_helper.to_array(tensor) * np.float32(factors[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, path)
    return path


def nothing_left(root: Path) -> bool:
    """Tell whether a stage left neither its output nor a half-written one."""
    return not list(root.glob("out*"))


def one_class(prepared: Path) -> Samples:
    """Take 64 training images of the first class."""
    return [each for each in shards.read(prepared, "train") if each[1] == 0][:CALIBRATION]


def judges(prepared: Path) -> Samples:
    """Take validation images."""
    return list(shards.read(prepared, "validation"))[:CALIBRATION]


def one_of_the_test_set(prepared: Path) -> Samples:
    """Take the calibration split, and for its last image one of the test set."""
    return [*list(shards.read(prepared, "calibration"))[:-1], *list(shards.read(prepared, "test"))[:1]]


def recompressed(prepared: Path) -> Samples:
    """Take validation images in other files: the network sees the same."""
    return [(png(np.asarray(Image.open(io.BytesIO(content)))), label) for content, label in judges(prepared)]


def without_crosses(prepared: Path) -> Samples:
    """Take the training images of three classes."""
    return [each for each in shards.read(prepared, "train") if each[1] != 2][: 2 * CALIBRATION]


def png(pixels: Any) -> bytes:
    """Return pixels as a PNG that is larger than need be."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("choose", "least", "words"),
    [
        (
            one_class,
            CALIBRATION,
            r"0 of 64 calibration samples are of class 'box', whose share .*raise prepare.calibra",
        ),
        (without_crosses, CALIBRATION, r"0 of 128 calibration samples are of class 'cross'"),
        (
            lambda folder: judges(folder)[:1],
            CALIBRATION,
            r" 1 calibration samples, but quantize.min_calibration asks for 64",
        ),
        (lambda folder: judges(folder)[:1], 1, r"0 of 1 calibration samples are of class '"),
        (judges, CALIBRATION, r"64 of 64 calibration samples are in the validation split, too .*run the prepare stage"),
        (recompressed, CALIBRATION, r"64 of 64 calibration samples are in the validation split, too"),
        (
            one_of_the_test_set,
            CALIBRATION,
            r"1 of 64 calibration samples are in the test split, too \(the first is number 63\)",
        ),
        (lambda folder: [], CALIBRATION, r"no shard of split 'calibration'; run the prepare stage"),
    ],
    ids=[
        "one class",
        "no crosses",
        "one",
        "one is enough",
        "validation",
        "validation in other files",
        "a test image",
        "none",
    ],
)
def test_a_calibration_set_that_is_no_honest_sample_is_refused(
    prepared: Path, tmp_path: Path, choose: Callable[[Path], Samples], least: int, words: str
) -> None:
    folder = calibrated_on(prepared, tmp_path / "prepare", choose(prepared))
    with pytest.raises(ValueError, match=words) as refused:
        quantized(folder, tmp_path, least=least)
    assert str(folder) in str(refused.value) and nothing_left(tmp_path)


def test_a_shard_that_holds_nothing_is_no_calibration_set(prepared: Path, tmp_path: Path) -> None:
    folder = calibrated_on(prepared, tmp_path / "prepare", [])
    shards.write_shard(folder / "calibration-00000.tar", 0, [])
    with pytest.raises(ValueError, match=r"0 calibration samples, but quantize.min_calibration asks for 64; raise"):
        quantized(folder, tmp_path)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("network", "words"),
    [
        (
            lambda path: changed(networks.convolutional(path), w2=np.nan),
            "the weights 'w2' hold NaN or inf.*train again",
        ),
        (
            lambda path: changed(networks.convolutional(path), b3=np.inf),
            "the weights 'b3' hold NaN or inf.*train again",
        ),
        (
            lambda path: networks.convolutional(path, batch=4),
            "'input' has a fixed batch of 4; export it with a dynamic",
        ),
        (
            lambda path: networks.convolutional(path, operator="Frobnicate"),
            "ONNX Runtime can't run.*custom:Frobnicate.*exp",
        ),
        (lambda path: path.write_bytes(b"no model" * 9), "ONNX Runtime can't run it.*Protobuf parsing failed"),
    ],
    ids=["NaN", "infinity", "fixed batch", "strange operator", "text"],
)
def test_a_network_that_no_precision_mends_is_refused(
    prepared: Path, tmp_path: Path, network: Callable[[Path], Any], words: str, precision: str
) -> None:
    (tmp_path / "export").mkdir()
    network(tmp_path / "export/model.onnx")
    with pytest.raises(ValueError, match=f"export/model.onnx: {words}"):
        quantized(prepared, tmp_path, [precision])
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("onnxruntime", "ONNX Runtime can't load fp32.onnx: .*Frobnicate"),
        ("openvino", "OpenVINO can't load fp32.onnx: No conversion rule found for operations: custom.Frobnicate"),
        ("tensorrt_rtx", "TensorRT for RTX can't read fp32.onnx: .*operator Frobnicate, node between"),
    ],
)
def test_an_operator_that_a_backend_does_not_know_is_refused_in_its_words(
    tmp_path: Path, backend: str, words: str
) -> None:
    folder = of_hand(tmp_path / "quantize", lambda path: networks.convolutional(path, operator="Frobnicate"))
    with pytest.raises(ValueError, match=words):
        build("toy", backend, folder, tmp_path / "out", max_batch=8, options=OPTIONS)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "tensorrt_rtx"])
def test_a_full_disk_while_building_leaves_no_engine(tmp_path: Path, backend: str) -> None:
    """No file above so many bytes: to a program that is a disk that is full."""
    of_hand(tmp_path / "quantize", networks.convolutional)
    miniature.write_params(tmp_path, {})
    line = f"build fashion --backend {backend} --quantize quantize --out out"
    done = subprocess.run(
        [sys.executable, "-m", "tasks.command", *line.split()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(miniature.ROOT)} | miniature.NO_BYTECODE,
        text=True,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000)),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    where = "a file" if backend == "tensorrt_rtx" else "out.partial/fp32.onnx"
    assert f"error: no room to write {where} (File too large); free some space" in done.stderr
    assert nothing_left(tmp_path)


def test_what_overflows_fp16_is_kept_in_fp32_and_listed(prepared: Path, tmp_path: Path) -> None:
    """The first layer gives 100,000 times too much, which the second takes back: FP16 ends at 65,504."""
    (tmp_path / "export").mkdir()
    source = changed(networks.convolutional(tmp_path / "export/model.onnx"), w1=1e5, b1=1e5, w2=1e-5)
    x = next(data.arrays(prepared, "calibration", json.loads((prepared / "spec.json").read_text()), 32))[0]
    with pytest.raises(
        ValueError, match=r"naive.onnx: layer 'c1' gives .* infinite .*take it out of quantize.precisions"
    ):
        numerics.report(source, networks.half(source, tmp_path / "naive.onnx"), x)
    out = quantized(prepared, tmp_path, ["fp32", "fp16"])
    check = json.loads((out / "quantize.json").read_text())["checks"]["fp16"]
    assert check["kept_in_fp32"][:3] == ["Conv first", "Relu between", "Conv second"]
    assert not [name for name in check["kept_in_fp32"] if name.startswith("Gemm")], "the rest is FP16"
    assert check["logits"]["sqnr_db"] > 40


def test_int8_that_loses_five_points_is_refused_with_rule_value_bound_and_n(prepared: Path, tmp_path: Path) -> None:
    """Calibrated on the same pictures in the dark, INT8 is blind to bright ones; as it should be, it passes."""
    spec = json.loads((prepared / "spec.json").read_text())
    (batch,) = data.arrays(prepared, "train", spec, 10_000)
    network = networks.fitted(tmp_path / "model.onnx", *batch)
    verdicts = {}
    for name, share in (("honest", 1.0), ("dark", 0.2)):
        root = tmp_path / name
        samples = [
            (png((np.asarray(Image.open(io.BytesIO(content))) * share).astype(np.uint8)), label)
            for content, label in shards.read(prepared, "calibration")
        ]
        verdicts[name] = judged(calibrated_on(prepared, root / "prepare", samples), root, network)
    honest, dark = verdicts["honest"], verdicts["dark"]
    assert honest["fp32"]["accuracy"] > 0.95
    if target.DOT_PRODUCTS & set(target.cpu()["instruction_sets"]):  # else sums of 16 bits cost points, too
        assert honest["int8"]["accuracy"] > honest["fp32"]["accuracy"] - 0.01
        assert "over" not in honest["int8"]["verdict"] and "under" not in honest["int8"]["verdict"]
    drop = dark["fp32"]["accuracy"] - dark["int8"]["accuracy"]
    assert drop > 0.05 and dark["chosen"] == "onnxruntime-fp32"
    first, *others = dark["int8"]["verdict"].split("; ")
    assert first == f"accuracy drop {drop:.4f} over max_accuracy_drop 0.01 (n=400)"
    assert re.search(r"drop of class '\w+' 0\.\d{4} over max_class_drop 0.05 \(n=400\)", "; ".join(others))
    assert f"agreement with FP32 {dark['int8']['agreement']:.4f} under min_agreement 0.97 (n=400)" in others


def judged(prepare: Path, root: Path, network: Path) -> dict[str, Any]:
    """Take a network from import to select; return the rows of both engines, and the choice."""
    for folder in ("export", "train"):
        (root / folder).mkdir()
        shutil.copy(network, root / folder / "model.onnx")
    quantize_folder = quantized(prepare, root)
    build("toy", "onnxruntime", quantize_folder, root / "build/onnxruntime", max_batch=8, options=OPTIONS)
    paths = root / "train", quantize_folder, root / "build", root / "evaluate.json", root / "answers.safetensors"
    evaluate(toys.WORKLOAD, ["onnxruntime"], prepare, *paths, batch_size=100)
    timings = root.parent / "measure.json"  # other ranges take the same time
    if not timings.exists():
        measured(root, timings)
    files = root / "evaluate.json", timings, root / "build", root / "select.json", root / "budget.png"
    select(["onnxruntime"], *files, objective="latency", **BOUNDS)
    selection = json.loads((root / "select.json").read_text())
    rows = {row["precision"]: row for row in selection["rows"] if "precision" in row}
    return rows | {"chosen": selection["chosen"]}


def measured(root: Path, out: Path) -> None:
    """Measure in a process of its own: it forks, which this one's threads forbid."""
    miniature.write_params(root, {})
    params = yaml.safe_load((root / "params.yaml").read_text()) | {"backends": ["onnxruntime"]}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    line = f"measure fashion --prepare prepare --train train --build build --out {out}"
    environment = os.environ | {"PYTHONPATH": str(miniature.ROOT)}
    subprocess.run([sys.executable, "-m", "tasks.command", *line.split()], cwd=root, env=environment, check=True)
