"""The two TensorRT backends: engines of a small network, built for real, without a GPU."""

import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorrt_rtx_bindings as library
from pydantic import ValidationError

from tasks import gpu, objection, trt
from tasks.backends import tensorrt, tensorrt_rtx
from tasks.quantize import to_int8
from tests import networks

EVERY = tensorrt_rtx.Options(compute_capabilities=[])
ADA = {"name": "NVIDIA L4", "compute_capability": "8.9", "driver_cuda": "13.0"}
HOPPER = ADA | {"name": "NVIDIA H100", "compute_capability": "9.0"}
TURING = ADA | {"name": "Tesla T4", "compute_capability": "7.5"}
VERSIONS = {"tensorrt_rtx": library.__version__, "tensorrt": library.__version__}
FLAGS = {"hardware_compatibility": "none", "version_compatible": False, "workspace_mb": 256}


class Engine(NamedTuple):
    """A built engine and the facts about it."""

    path: Path
    facts: dict[str, Any]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write one network in three precisions."""
    folder = tmp_path_factory.mktemp("onnx")
    plain = networks.convolutional(folder / "fp32.onnx")
    x = np.random.default_rng(1).normal(size=(8, 1, 28, 28)).astype(np.float32)
    to_int8(plain, folder / "int8.onnx", [x], "tensorrt")
    return {"fp32": plain, "fp16": networks.half(plain, folder / "fp16.onnx"), "int8": folder / "int8.onnx"}


@pytest.fixture(scope="module")
def engines(sources: dict[str, Path]) -> dict[str, Engine]:
    """Build each of them for the library's own choice of GPUs."""
    return {name: build(source, source.with_suffix(".rtx")) for name, source in sources.items()}


def build(source: Path, out: Path, options: tensorrt_rtx.Options = EVERY, max_batch: int = 32) -> Engine:
    return Engine(out, tensorrt_rtx.build(source, out, max_batch, options))


def target(device: dict[str, str] | None = ADA, **versions: str | None) -> dict[str, Any]:
    return {"gpu": device, "versions": VERSIONS | versions}


def network(source: Path) -> tuple[Any, ...]:
    """Parse a file; the parser and builder come along, for the network lives no longer than they."""
    logger, _ = trt.listener(library)
    builder = library.Builder(logger)
    parsed = builder.create_network(trt.strongly_typed(library))
    parser = library.OnnxParser(parsed, logger)
    assert parser.parse_from_file(str(source))
    return parsed, parser, builder, logger


def test_facts_tell_version_targets_and_batch(engines: dict[str, Engine]) -> None:
    for engine in engines.values():
        assert engine.facts["versions"] == {"tensorrt_rtx": library.__version__, "cuda": "13"}
        assert engine.facts["batch"] == [1, 8, 32]
        assert engine.facts["flags"]["compute_capabilities"] == ["8.0", "8.6", "8.9", "12.0", "12.1"]
        found = tensorrt_rtx.header(engine.path)
        assert found.version == library.__version__ and found.newer and "7.5" not in found.targets


def test_layers_compute_in_the_precision_of_the_file(engines: dict[str, Engine]) -> None:
    assert engines["fp32"].facts["layers"].keys() == {"FLOAT"}
    assert engines["fp16"].facts["layers"].keys() == {"HALF"}
    eight = engines["int8"].facts["layers"]
    assert eight.keys() == {"FLOAT", "INT8"} and eight["INT8"] >= 4  # both convolutions, with their ReLUs


@pytest.mark.parametrize(("precision", "kind"), [("fp32", "FLOAT"), ("fp16", "HALF"), ("int8", "INT8")])
def test_every_convolution_computes_in_it(sources: dict[str, Path], precision: str, kind: str) -> None:
    parsed = network(sources[precision])
    found = [layer for layer in trt.layers(parsed[0]) if layer["type"] == "CONVOLUTION"]
    assert [layer["computes"] for layer in found] == [kind, kind] and all(layer["name"] for layer in found)


def test_a_convolution_with_float_weights_is_no_int8_layer(tmp_path: Path, sources: dict[str, Path]) -> None:
    """Take the pairs off the weights alone: activations in INT8 are not enough."""
    import onnx

    model = onnx.load(sources["int8"])
    made_by = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.input[1] = made_by[made_by[node.input[1]].input[0]].input[0]
    onnx.save(model, tmp_path / "half.onnx")
    parsed = network(tmp_path / "half.onnx")
    found = {layer["computes"] for layer in trt.layers(parsed[0]) if layer["type"] == "CONVOLUTION"}
    assert found == {"FLOAT"}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_second_build_gives_the_same_engine(
    sources: dict[str, Path], engines: dict[str, Engine], tmp_path: Path, precision: str
) -> None:
    """Byte for byte; INT8 but for the numbers in names that the compiler makes up, which differ from build to build."""
    again, first = build(sources[precision], tmp_path / "again.rtx"), engines[precision]
    assert again.facts == first.facts
    contents = [engine.path.read_bytes() for engine in (first, again)]
    if precision == "int8":
        contents = [re.sub(rb"__mye\d+", b"__mye", content) for content in contents]
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("chosen", "names"), [([89], ["8.9"]), ([120, 86], ["8.6", "12.0"]), ([80, 86, 89, 120, 121], None)], ids=str
)
def test_chosen_compute_capabilities_are_the_targets(
    sources: dict[str, Path], tmp_path: Path, chosen: list[int], names: list[str] | None
) -> None:
    engine = build(sources["fp16"], tmp_path / "a.rtx", tensorrt_rtx.Options(compute_capabilities=chosen))
    found = tensorrt_rtx.header(engine.path)
    assert found.targets == (names or ["8.0", "8.6", "8.9", "12.0", "12.1"]) and not found.newer
    assert engine.facts["flags"] == {"strongly_typed": True, "compute_capabilities": found.targets, "newer": False}


def test_turing_takes_fp16_and_says_why_not_fp32(sources: dict[str, Path], tmp_path: Path) -> None:
    turing = tensorrt_rtx.Options(compute_capabilities=[75])
    engine = build(sources["fp16"], tmp_path / "a.rtx", turing)
    assert tensorrt_rtx.objections(*engine, target(TURING)) == []
    with pytest.raises(ValueError, match=r"fp32.onnx: .*FP32 GEMM is not supported.*take 75 out of compute_capab"):
        build(sources["fp32"], tmp_path / "b.rtx", turing)
    assert not (tmp_path / "b.rtx").exists()
    build(sources["fp32"], tmp_path / "c.rtx")  # the library builds otherwise once, right after it refused Turing


@pytest.mark.parametrize("capability", [90, 0, 1, 89.5, "8.9"])
def test_a_compute_capability_the_library_does_not_know_is_refused(
    sources: dict[str, Path], tmp_path: Path, capability: Any
) -> None:
    with pytest.raises(
        ValueError, match=rf"not build for {capability}; it does for 75, 80, 86, 89, 120, 121|valid integer"
    ):
        options = tensorrt_rtx.Options.model_validate({"compute_capabilities": [89, capability]})
        build(sources["fp32"], tmp_path / "a.rtx", options)


def test_knobs_have_no_defaults_and_no_strangers() -> None:
    for kind in (tensorrt.Options, tensorrt_rtx.Options):
        with pytest.raises(ValidationError, match="Field required"):
            kind.model_validate({})
    with pytest.raises(ValidationError, match="Extra inputs"):
        tensorrt_rtx.Options.model_validate({"compute_capabilities": [], "refit": True})
    with pytest.raises(ValidationError, match="there twice"):
        tensorrt_rtx.Options(compute_capabilities=[89, 89])
    with pytest.raises(ValidationError, match="ampere_plus"):
        tensorrt.Options.model_validate(FLAGS | {"hardware_compatibility": "all"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"operator": "Frobnicate"}, r"can't read n.onnx: .*operator Frobnicate, node between"),
        ({"batch": 4}, r"n.onnx: its batch is fixed at 4; export it with a dynamic batch"),
        ({"size": "size"}, r"n.onnx: its input is \[\?, 1, \?, \?\]; export it with a dynamic batch"),
    ],
    ids=str,
)
def test_what_can_not_be_built_is_refused_with_its_name(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    source = networks.convolutional(tmp_path / "n.onnx", **changes)
    with pytest.raises(ValueError, match=words):
        build(source, tmp_path / "a.rtx")
    assert not (tmp_path / "a.rtx").exists()


def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n.onnx").write_bytes(b"nonsense" * 10)
    with pytest.raises(ValueError, match=r"TensorRT for RTX can't read n.onnx: .*Failed to parse the ONNX model"):
        build(tmp_path / "n.onnx", tmp_path / "a.rtx")


@pytest.mark.parametrize(("largest", "batch"), [(1, [1, 1, 1]), (3, [1, 1, 3]), (128, [1, 32, 128])])
def test_the_profile_follows_the_largest_batch(
    sources: dict[str, Path], tmp_path: Path, largest: int, batch: list[int]
) -> None:
    assert build(sources["fp32"], tmp_path / "a.rtx", max_batch=largest).facts["batch"] == batch


def test_a_builder_that_fails_is_reported_in_its_own_words(sources: dict[str, Path]) -> None:
    def configure(config: Any) -> None:
        config.set_flag(library.BuilderFlag.VERSION_COMPATIBLE)  # its runtime is not in the packages

    with pytest.raises(ValueError, match=r"Title can't build fp32.onnx: .*Unable to load library"):
        trt.build(library, "Title", sources["fp32"], 8, configure)


@pytest.mark.parametrize(
    ("against", "words"),
    [
        (target(), []),
        (target(ADA | {"compute_capability": "12.3"}), []),  # newer than all it knows
        (target(tensorrt_rtx="1.7.1"), []),
        (target(None), ["the target has no NVIDIA GPU"]),
        (
            target(HOPPER),
            ["built for compute capability 8.0, 8.6, 8.9, 12.0, 12.1 or newer, the target's GPU 'NVIDIA H100' has 9.0"],
        ),
        (target(TURING), ["the target's GPU 'Tesla T4' has 7.5"]),
        (target(tensorrt_rtx="1.6.0"), ["built by TensorRT for RTX 1.7.1.116, the target has 1.6.0"]),
        (target(tensorrt_rtx=None), ["built by TensorRT for RTX 1.7.1.116, the target has none"]),
        (target(ADA | {"driver_cuda": "12.4"}), ["built with CUDA 13, the driver of the target's GPU 'NVIDIA L4' is"]),
        (target(None, tensorrt_rtx="1.8.0"), ["the target has 1.8.0", "the target has no NVIDIA GPU"]),
        (target(HOPPER, tensorrt_rtx="1.8.0"), ["the target has 1.8.0", "has 9.0"]),
    ],
    ids=repr,
)
def test_objections_name_both_values(engines: dict[str, Engine], against: dict[str, Any], words: list[str]) -> None:
    found = tensorrt_rtx.objections(*engines["fp32"], against)
    assert len(found) == len(words) and all(word in reason for word, reason in zip(words, found, strict=True)), found


def test_an_engine_for_one_gpu_objects_to_its_sister(sources: dict[str, Path], tmp_path: Path) -> None:
    engine = build(sources["fp32"], tmp_path / "a.rtx", tensorrt_rtx.Options(compute_capabilities=[86]))
    assert tensorrt_rtx.objections(*engine, target()) == [
        "built for compute capability 8.6, the target's GPU 'NVIDIA L4' has 8.9"
    ]


@pytest.mark.parametrize(
    ("keep", "words"),
    [(0, "no engine of TensorRT for RTX"), (63, "no engine"), (64, "64 bytes, but its header says"), (-1, "but its")],
)
def test_a_torn_engine_is_objected_to(engines: dict[str, Engine], tmp_path: Path, keep: int, words: str) -> None:
    (tmp_path / "torn.rtx").write_bytes(engines["fp32"].path.read_bytes()[:keep])
    (reason,) = tensorrt_rtx.objections(tmp_path / "torn.rtx", engines["fp32"].facts, target())
    assert words in reason and reason.startswith("torn.rtx: ") and reason.endswith("build it again")


def test_a_foreign_file_and_foreign_facts_are_objected_to(engines: dict[str, Engine], sources: dict[str, Path]) -> None:
    facts = engines["fp32"].facts
    assert "no engine of TensorRT for RTX" in tensorrt_rtx.objections(sources["fp32"], facts, target())[0]
    other = facts | {"versions": {"tensorrt_rtx": "1.6.0.1", "cuda": "13"}}
    assert "is by TensorRT for RTX 1.7.1.116, its facts by 1.6.0.1" in "".join(
        tensorrt_rtx.objections(engines["fp32"].path, other, target())
    )


def test_without_a_gpu_engines_are_not_loaded_and_say_so(engines: dict[str, Engine]) -> None:
    if gpu.first() is not None:
        pytest.skip("there is a GPU")
    assert tensorrt_rtx.missing() == "no NVIDIA driver on this machine"
    assert trt.inspect(library, engines["fp32"].path.read_bytes()) is None
    with pytest.raises(ValueError, match=r"TensorRT for RTX can't load fp32.rtx here: .*CUDA driver"):
        tensorrt_rtx.load(engines["fp32"].path, threads=1)


def test_every_precision_gives_finite_numbers_close_to_fp32(sources: dict[str, Path]) -> None:
    """What the engines are built from computes the same in every precision, as far as the CPU can tell."""
    import onnxruntime

    x = np.random.default_rng(2).normal(size=(5, 1, 28, 28)).astype(np.float32)
    sessions = {n: onnxruntime.InferenceSession(p, providers=["CPUExecutionProvider"]) for n, p in sources.items()}
    found = {name: session.run(["logits"], {"input": x})[0] for name, session in sessions.items()}
    assert all(np.isfinite(logits).all() for logits in found.values())
    assert np.allclose(found["fp16"], found["fp32"], atol=1e-2)
    assert np.abs(found["int8"] - found["fp32"]).max() < 0.1 * np.abs(found["fp32"]).max()


def test_tensorrt_says_what_to_install(sources: dict[str, Path], tmp_path: Path) -> None:
    if find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    words = r'needs NVIDIA\'s TensorRT.*pip install "engineworks\[gpu\]", or take tensorrt out of `backends`'
    with pytest.raises(ValueError, match=words):
        tensorrt.build(sources["fp32"], tmp_path / "a.plan", 8, tensorrt.Options.model_validate(FLAGS))
    assert tensorrt.missing() == 'TensorRT is not installed: pip install "engineworks[gpu]"'


@pytest.fixture
def plan(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Engine:
    """Drive the code for TensorRT through TensorRT for RTX: their API is one, but what comes out is no plan."""
    monkeypatch.setattr(tensorrt, "CACHES", tmp_path / "timing")
    out = tmp_path / "fp32.plan"
    options = tensorrt.Options.model_validate(FLAGS | getattr(request, "param", {}))
    return Engine(out, tensorrt.construct(library, ADA, sources["fp32"], out, 16, options))


@pytest.mark.filterwarnings("ignore:.*Timing cache operations:DeprecationWarning")
@pytest.mark.parametrize("plan", [{}, {"hardware_compatibility": "ampere_plus"}], indirect=True)
def test_the_code_for_tensorrt_builds_by_the_common_api(plan: Engine, sources: dict[str, Path]) -> None:
    assert plan.facts["gpu"] == ADA and plan.facts["batch"] == [1, 4, 16] and plan.facts["layers"].keys() == {"FLOAT"}
    assert plan.path.stat().st_size > 10_000
    kept = plan.path.parent / "timing" / f"NVIDIA-L4-{library.__version__}.cache"
    assert [kept.read_bytes()] == [plan.path.with_suffix(".timing").read_bytes()] and kept.stat().st_size
    for content in (kept.read_bytes(), b"damaged", b""):  # taken over, or timed anew
        kept.write_bytes(content)
        tensorrt.construct(library, ADA, sources["fp32"], plan.path, 16, tensorrt.Options.model_validate(FLAGS))
        assert kept.read_bytes() == plan.path.with_suffix(".timing").read_bytes() != b"damaged"
    assert not list(kept.parent.glob("*.partial"))


@pytest.mark.parametrize(
    ("flags", "against", "words"),
    [
        ({}, target(), []),
        ({}, target(tensorrt="11.4.0"), []),
        ({}, target(None), ["the target has no NVIDIA GPU"]),
        ({}, target(tensorrt=None), ["built by TensorRT 11.4.0.7, the target has none"]),
        ({}, target(tensorrt="11.5.0"), ["built by TensorRT 11.4.0.7, the target has 11.5.0"]),
        ({"version_compatible": True}, target(tensorrt="11.5.0"), []),
        ({"version_compatible": True}, target(tensorrt="12.0.1"), []),
        ({"version_compatible": True}, target(tensorrt="11.3.9"), ["11.4.0.7, the target has 11.3.9"]),
        ({}, target(HOPPER), ["built for compute capability 8.9, the target's GPU 'NVIDIA H100' has 9.0"]),
        ({"hardware_compatibility": "ampere_plus"}, target(HOPPER), []),
        ({"hardware_compatibility": "ampere_plus"}, target(TURING), ["8.0 or newer, the target's GPU 'Tesla T4' has"]),
        ({}, target(ADA | {"name": "NVIDIA L40S"}), ["for the GPU 'NVIDIA L4' alone, the target has 'NVIDIA L40S'"]),
        ({"hardware_compatibility": "same_compute_capability"}, target(ADA | {"name": "NVIDIA L40S"}), []),
        (
            {"hardware_compatibility": "same_compute_capability"},
            target(HOPPER),
            ["8.9, the target's GPU"],
        ),
    ],
    ids=repr,
)
def test_plans_object_by_version_and_gpu(
    tmp_path: Path, flags: dict[str, Any], against: dict[str, Any], words: list[str]
) -> None:
    if against["versions"]["tensorrt"] == library.__version__:
        against = {"gpu": against["gpu"], "versions": {"tensorrt": "11.4.0.7"}}
    facts = {"versions": {"tensorrt": "11.4.0.7"}, "flags": FLAGS | flags, "gpu": ADA}
    (tmp_path / "a.plan").write_bytes(b"ftrt" + bytes(20) + bytes([11, 4, 0, 7]) + bytes(100))
    found = tensorrt.objections(tmp_path / "a.plan", facts, against)
    assert len(found) == len(words) and all(word in reason for word, reason in zip(words, found, strict=True)), found


def test_a_torn_plan_and_an_engine_of_the_other_library_are_objected_to(
    engines: dict[str, Engine], tmp_path: Path
) -> None:
    facts = {"versions": {"tensorrt": "11.4.0.7"}, "flags": FLAGS, "gpu": ADA}
    against = {"gpu": ADA, "versions": {"tensorrt": "11.4.0.7"}}
    shutil.copyfile(engines["fp32"].path, tmp_path / "rtx.plan")
    (tmp_path / "torn.plan").write_bytes(b"ftrt" + bytes(23))
    for name in ("rtx.plan", "torn.plan"):
        assert tensorrt.objections(tmp_path / name, facts, against)[0].startswith(f"{name}: no plan of TensorRT")
    (tmp_path / "old.plan").write_bytes(b"ftrt" + bytes(20) + bytes([10, 9, 0, 7]) + bytes(100))
    assert (
        "is by TensorRT 10.9.0.7, its facts by 11.4.0.7"
        in tensorrt.objections(tmp_path / "old.plan", facts, against)[0]
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("1.7.1.116", "1.7.1", True), ("1.7.1", "1.7.2", False), ("11.4.0+cu13", "11.4", True), ("", "1.0", False)],
)
def test_versions_agree_as_far_as_both_go(one: str, other: str, same: bool) -> None:
    assert objection.same(one, other) is same and objection.same(other, one) is same
