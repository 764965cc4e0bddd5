"""lint: the classics of broken model repositories, each named with model, field, value and remedy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.build import build
from tasks.lint import lint
from tasks.package import package
from tests.test_package import SPEC, choose, write_engine, write_json

GOOD = {"max_batch_size": 16, "max_queue_delay_us": 0, "instances": 1, "threads": 1}


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packaged repository of a real engine, built for batches of up to 16 by TensorRT for RTX's passport."""
    import tarfile

    import numpy as np
    from safetensors.numpy import save_file

    root = tmp_path_factory.mktemp("lint")
    write_json(root / "prepare" / "spec.json", SPEC)
    with tarfile.open(root / "prepare" / "golden.tar", "w"):
        pass
    save_file({"input": np.zeros((1, 3, 8, 8), np.float32)}, root / "prepare" / "golden.safetensors")
    write_engine(root / "quantize" / "fp32.onnx")
    origin = {"files": {"fp32": {"cpu": "fp32.onnx"}}, "preprocessing_sha256": "0"}
    write_json(root / "quantize" / "quantize.json", origin)
    build("toy", "onnxruntime", root / "quantize", root / "build" / "onnxruntime", max_batch=16, options=None)
    choose(root / "select.json", "onnxruntime-fp32")
    write_json(root / "reference.json", {"engine": "onnxruntime-fp32", "n": 4})
    paths = (root / name for name in ("prepare", "build", "select.json", "reference.json", "package"))
    package("toy", *paths, **GOOD)
    return root / "package" / "repository"


@pytest.fixture
def repository(packaged: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(packaged, tmp_path / "repository"))


def edit(repository: Path, model: str, old: str, new: str) -> None:
    path = repository / model / "config.pbtxt"
    text = path.read_text()
    assert old in text, text
    path.write_text(text.replace(old, new, 1))


def built_for(repository: Path, most: int) -> None:
    """Write a passport that allows batches of at most `most`."""
    path = repository / "toy_engine" / "1" / "engine.onnx.passport.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"batch": [1, 4, most]}))


def edits(model: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda repository: edit(repository, model, old, new)


def batching(fields: str) -> Callable[[Path], None]:
    return edits("toy_engine", "dynamic_batching {\n", f"dynamic_batching {{\n  {fields}\n")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "misspelt field": (edits("toy_engine", "max_batch_size", "max_batchsize"), "toy_engine: config.pbtxt: .*no field"),
    "no configuration": (lambda r: (r / "toy_engine/config.pbtxt").unlink(), "toy_engine: config.pbtxt: No such file"),
    "other name": (edits("toy_engine", 'name: "toy_engine"', 'name: "toy"'), "names it 'toy'; the folder's name"),
    "no version": (lambda r: shutil.rmtree(r / "toy_engine/1"), "no version folder .* would hang the server"),
    "no model file": (lambda r: (r / "toy_engine/1/model.py").unlink(), "1/model.py is not there: .* hang the server"),
    "above the profile": (
        lambda r: built_for(r, 8),
        "max_batch_size 16 is above 8, the most that engine.onnx was built",
    ),
    "wrong type": (
        edits("toy_engine", "TYPE_FP32", "TYPE_FP16"),
        "'input' is TYPE_FP16, but engine.onnx has TYPE_FP32",
    ),
    "batch in dims": (
        edits("toy_engine", "  dims: 3\n", "  dims: -1\n  dims: 3\n"),
        r"'input' repeats the batch in dims \[-1, 3, 8, 8\]; with max_batch_size write \[3, 8, 8\]",
    ),
    "fixed batch in dims": (edits("toy_engine", "  dims: 3\n", "  dims: 1\n  dims: 3\n"), "'input' repeats the batch"),
    "other dims": (
        edits("toy_engine", "  dims: 3\n", "  dims: 4\n"),
        r"'input' has dims \[4, 8, 8\], but engine.onnx has",
    ),
    "label count": (
        lambda r: (r / "toy_engine/1/spec.json").write_text(json.dumps(SPEC | {"classes": ["a", "b"]})),
        r"output 'scores' has dims \[3\], but there are 2 classes",
    ),
    "wrong hardware": (edits("toy_engine", "KIND_CPU", "KIND_GPU"), "instance_group is KIND_GPU, .* write KIND_CPU"),
    "unknown step": (edits("toy", 'model_name: "toy_engine"', 'model_name: "other"'), "step 'other' is no model here"),
    "default priority out of range": (
        batching("priority_levels: 2 default_priority_level: 3"),
        "toy_engine: default_priority_level is 3, but there are priority_levels 1 to 2; name one of them",
    ),
    "no default priority": (
        batching("priority_levels: 2"),
        "toy_engine: default_priority_level is 0, but there are priority_levels 1 to 2",
    ),
    "default priority without levels": (
        batching("default_priority_level: 1"),
        "toy_engine: default_priority_level is 1, but there are no priority_levels",
    ),
    "a policy for a level that is not there": (
        batching("priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 value {} }"),
        "toy_engine: priority_queue_policy is for level 3, but priority_levels are 1 to 2; it would never count",
    ),
    "a timeout that nobody sets": (
        batching("default_queue_policy { timeout_action: DELAY }"),
        "toy_engine: default_queue_policy has a timeout_action for a timeout that nobody sets",
    ),
    "open input": (edits("toy_tensor", 'key: "input"\n', 'key: "x"\n'), "leaves its input 'input' open; map it"),
    "unmade value": (edits("toy_tensor", 'value: "input"', 'value: "nobody"'), "'nobody', for 'input' of 'toy_engine'"),
    "other type on the wire": (
        edits("toy_preprocess", "TYPE_FP32", "TYPE_UINT8"),
        "toy: 'input' differs in type or dims from 'input' of 'toy_engine'",
    ),
    "unmade output": (edits("toy_tensor", 'value: "scores"', 'value: "other"'), "output 'scores' is made by no step"),
    "batch above a step's": (
        edits("toy_engine", "max_batch_size: 16", "max_batch_size: 8"),
        "toy: max_batch_size 16 is above 8, that of 'toy_engine'",
    ),
    "output turned input": (edits("toy_engine", "output {", "input {"), "leaves its input 'label' open; map it"),
}


def test_what_package_writes_has_nothing_wrong(packaged: Path) -> None:
    assert lint(packaged) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_classic_is_named(repository: Path, fault: str) -> None:
    import re

    plant, sentence = FAULTS[fault]
    plant(repository)
    found = lint(repository)
    assert any(re.search(sentence, each) for each in found), found
    assert not any("\n" in each or str(repository) in each for each in found)


def test_a_folder_without_models_and_no_folder_are_told(tmp_path: Path) -> None:
    assert "no model in it" in lint(tmp_path)[0]
    with pytest.raises(ValueError, match="no such folder"):
        lint(tmp_path / "nowhere")
