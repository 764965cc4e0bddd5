"""package: a model repository that is the same for the same inputs, and needs nothing of this machine."""

import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from safetensors.numpy import save_file
from tritonclient.grpc import model_config_pb2

from tasks.build import build as build_engines
from tasks.package import digest, package, parts, public

ROOT = Path(__file__).parents[1]
CLASSES = ["cat", "dog", "fish"]
SPEC = {
    "workload": "image/classification",
    "classes": CLASSES,
    "image_size": 8,
    "channels": 3,
    "mean": [1.0, 2.0, 3.0],
    "std": [4.0, 5.0, 6.0],
    "counts": {"test": 4},
    "shape": [3, 8, 8],
}
MAX_BATCH_SIZE = 16


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_engine(path: Path) -> None:
    """A network of one layer."""
    weight = np.random.default_rng(1).normal(size=(8 * 8 * 3, len(CLASSES))).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])],
        "toy",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(CLASSES)])],
        [helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.tobytes(), raw=True)],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), path)


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """What the stages before leave, in miniature."""
    prepare, build, select = tmp_path / "prepare", tmp_path / "build", tmp_path / "select.json"
    write_json(prepare / "spec.json", SPEC)
    with tarfile.open(prepare / "golden.tar", "w") as tar:
        member = tarfile.TarInfo("0000.sample")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"png"))
    tensors = {"input": np.zeros((1, 3, 8, 8), np.float32), "label": np.array([1])}
    save_file(tensors, prepare / "golden.safetensors")
    write_engine(tmp_path / "quantize" / "fp32.onnx")
    origin = {"files": {"fp32": {"cpu": "fp32.onnx"}}, "preprocessing_sha256": "0"}
    write_json(tmp_path / "quantize" / "quantize.json", origin)
    build_engines("toy", "onnxruntime", tmp_path / "quantize", build / "onnxruntime", max_batch=16, options=None)
    choose(select, "onnxruntime-fp32")
    write_json(tmp_path / "reference.json", {"engine": "onnxruntime-fp32", "n": 4})
    return {"prepare": prepare, "build": build, "select": select, "reference": tmp_path / "reference.json"}


def choose(select: Path, engine: str | None) -> None:
    rows = [
        {"engine": "onnxruntime-fp32", "verdict": "loses too much"},
        {"engine": "tensorrt_rtx-fp32", "verdict": "no"},
    ]
    write_json(select, {"chosen": engine, "rows": rows})


def make(inputs: dict[str, Path], out: Path) -> None:
    knobs = {"max_batch_size": MAX_BATCH_SIZE, "max_queue_delay_us": 200, "instances": 2, "threads": 3}
    package("toy", **inputs, out=out, **knobs)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_inputs_give_the_same_bytes(inputs: dict[str, Path], tmp_path: Path) -> None:
    make(inputs, tmp_path / "a")
    make(inputs, tmp_path / "b" / "deeper")
    assert files(tmp_path / "a") == files(tmp_path / "b" / "deeper")


def test_package_json_tells_any_changed_byte(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(inputs, out)
    facts = json.loads((out / "package.json").read_text())
    assert facts["engine"] == "onnxruntime-fp32"
    assert facts["sha256"] == digest(out / "repository")
    code = out / "repository" / "toy_engine" / "1" / "model.py"
    code.write_text(code.read_text() + "\n")
    assert facts["sha256"] != digest(out / "repository")


def test_every_model_has_a_configuration_that_triton_reads(inputs: dict[str, Path], tmp_path: Path) -> None:
    make(inputs, tmp_path / "out")
    folders = {path.name: path for path in (tmp_path / "out" / "repository").iterdir()}
    assert set(folders) == {*parts("toy"), *public("toy")}
    for name, folder in folders.items():
        config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
        assert (config.name, config.max_batch_size) == (name, MAX_BATCH_SIZE)
        assert any((folder / "1").iterdir()), "a version folder that is empty gets lost in DVC"


def test_threads_reach_engine_and_preprocessing(inputs: dict[str, Path], tmp_path: Path) -> None:
    make(inputs, tmp_path / "out")
    for name in parts("toy"):
        text = (tmp_path / "out" / "repository" / name / "config.pbtxt").read_text()
        assert text_format.Parse(text, model_config_pb2.ModelConfig()).parameters["threads"].string_value == "3"


def test_the_tensors_follow_the_prepared_data(inputs: dict[str, Path], tmp_path: Path) -> None:
    make(inputs, tmp_path / "out")
    text = (tmp_path / "out" / "repository" / "toy_tensor" / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert list(config.input[0].dims) == [3, 8, 8]
    assert {tensor.name: list(tensor.dims) for tensor in config.output} == {"label": [1], "scores": [3]}


def test_no_path_of_this_machine_is_in_the_package(inputs: dict[str, Path], tmp_path: Path) -> None:
    make(inputs, tmp_path / "out")
    for name, content in files(tmp_path / "out").items():
        for place in (ROOT, tmp_path, Path.home()):
            assert str(place).encode() not in content, f"{name} holds {place}"


def test_no_engine_chosen_gives_reasons_and_no_repository(inputs: dict[str, Path], tmp_path: Path) -> None:
    choose(inputs["select"], None)
    make(inputs, tmp_path / "out")
    assert set(files(tmp_path / "out")) == {"package.json"}
    facts = json.loads((tmp_path / "out" / "package.json").read_text())
    assert facts["engine"] is None
    assert facts["reasons"] == ["onnxruntime-fp32: loses too much", "tensorrt_rtx-fp32: no"]


@pytest.mark.parametrize("engine", ["tensorrt_rtx-fp32", "onnxruntime-int4"])
def test_an_engine_that_can_not_be_served_is_named(inputs: dict[str, Path], tmp_path: Path, engine: str) -> None:
    choose(inputs["select"], engine)
    with pytest.raises(ValueError, match=engine):
        make(inputs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_engine_changed_after_its_build_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    with (inputs["build"] / "onnxruntime" / "fp32.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match=r"fp32\.onnx"):
        make(inputs, tmp_path / "out")


@pytest.mark.parametrize("part", [0, 1])
def test_the_served_code_imports_in_the_serving_environment_alone(
    inputs: dict[str, Path], tmp_path: Path, part: int
) -> None:
    serving = ROOT / ".state" / "serving"
    if not (serving / "installed").exists():
        pytest.skip("the serving environment is not set up: make up")
    make(inputs, tmp_path / "out")
    folder = tmp_path / "out" / "repository" / parts("toy")[part] / "1"
    environment = {"PYTHONPATH": str(serving / "backends" / "python"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [(serving / "env" / "bin" / "python").absolute(), "-c", "import model; model.TritonPythonModel()"],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_container_gets_its_own_backends_and_the_same_preprocessing(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Written for NVIDIA's container, which does not run here: parsed, linted, and DALI's graph run by DALI."""
    from nvidia.dali import Pipeline
    from PIL import Image

    from tasks.modalities.image import preprocess

    package("toy", **inputs, out=tmp_path / "out", max_batch_size=4, max_queue_delay_us=100, instances=2, threads=3)
    folder = tmp_path / "out" / "container"
    configs = {}
    for path in folder.glob("*/config.pbtxt"):
        configs[path.parent.name] = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    assert configs.keys() == {"toy", "toy_engine", "toy_preprocess"}
    assert (configs["toy_engine"].platform, configs["toy_preprocess"].backend) == ("onnxruntime_onnx", "dali")
    assert (folder / "toy_engine/labels.txt").read_text().split() == CLASSES
    encoded = io.BytesIO()
    Image.effect_noise((20, 12), 60).convert("RGB").save(encoded, "PNG")
    ours = preprocess.run(preprocess.serving_pipeline(SPEC, 4), [encoded.getvalue()])
    graph = Pipeline.deserialize((folder / "toy_preprocess/1/model.dali").read_bytes())
    np.testing.assert_array_equal(preprocess.run(graph, [encoded.getvalue()]), ours)
