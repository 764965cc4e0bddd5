"""The passports of real engines, and what `engineworks check` answers for this machine and for others."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows import cli
from tasks import backends, engines, passport, target
from tasks.build import build
from tasks.quantize import to_int8
from tests import networks
from tests.miniature import ROOT

NAMES = ("onnxruntime", "openvino", "tensorrt_rtx")
OPTIONS = backends.options().model_validate({"tensorrt_rtx": {"compute_capabilities": []}})
FILES = {"fp32": dict.fromkeys(("cpu", "tensorrt"), "fp32.onnx")}
FILES |= {"int8": {dialect: f"int8.{dialect}.onnx" for dialect in ("cpu", "tensorrt")}}
CALIBRATION = {"samples": 16, "sha256": "c" * 64}
HERE = target.target()
ADA = {"name": "NVIDIA L4", "compute_capability": "8.9", "memory_bytes": 24 << 30, "driver_cuda": "13.0"}
OTHERS = {"exact": ["avx2"], "saturating": ["avx2", "avx512_vnni"]}  # of x86: what computes INT8 the other way
CPUS = [
    ("onnxruntime", "fp32.onnx"),
    ("onnxruntime", "int8.onnx"),
    ("openvino", "fp32.onnx"),
    ("openvino", "int8.onnx"),
]
ENGINES = [*CPUS, ("tensorrt_rtx", "fp32.rtx"), ("tensorrt_rtx", "int8.rtx")]


def with_gpu(**changes: str) -> dict[str, Any]:
    """Return this machine with a GPU."""
    return HERE | {"gpu": ADA | changes}


def with_version(name: str, version: str | None) -> dict[str, Any]:
    """Return this machine, with a GPU, and another version of a library."""
    return with_gpu() | {"versions": HERE["versions"] | {name: version}}


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Leave what quantize leaves, of a small network."""
    folder = tmp_path_factory.mktemp("quantize")
    source = networks.convolutional(folder / "fp32.onnx")
    x = np.random.default_rng(1).normal(size=(16, 1, 28, 28)).astype(np.float32)
    for dialect, file in FILES["int8"].items():
        to_int8(source, folder / file, [x], dialect)
    content = {"files": FILES, "calibration": CALIBRATION, "preprocessing_sha256": "d" * 64}
    (folder / "quantize.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def built(quantized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build every engine that can be built here; a test that changes one takes a copy."""
    folder = tmp_path_factory.mktemp("build") / "toy"
    for name in NAMES:
        build("toy", name, quantized, folder / name, max_batch=8, options=OPTIONS)
    return folder


@pytest.fixture
def taken(built: Path, tmp_path: Path) -> Callable[[str, str], Path]:
    """Return a function that gives a copy of an engine with its passport."""

    def take(backend: str, file: str) -> Path:
        for name in (file, file + passport.SUFFIX):
            shutil.copy(built / backend / name, tmp_path)
        return tmp_path / file

    return take


@pytest.mark.parametrize(("backend", "file"), ENGINES)
def test_a_passport_holds_every_fact(built: Path, quantized: Path, backend: str, file: str) -> None:
    engine, precision, module = built / backend / file, file.partition(".")[0], backends.backend(backend)
    facts, source = passport.read(engine), quantized / FILES[precision][module.DIALECT]
    assert (facts["engine"], facts["pipeline"], facts["device"]) == (f"{backend}-{precision}", "toy", module.DEVICE)
    assert facts["sha256"] == hashlib.sha256(engine.read_bytes()).hexdigest()
    assert facts["size_bytes"] == len(engine.read_bytes())
    assert facts["onnx"] == {"file": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    assert facts["calibration"] == (CALIBRATION if precision == "int8" else None)
    assert facts["preprocessing_sha256"] == "d" * 64
    shapes = {"inputs": ("input", ["batch", 1, 28, 28]), "outputs": ("logits", ["batch", 4])}
    expected = {side: [{"name": name, "type": "float", "shape": shape}] for side, (name, shape) in shapes.items()}
    assert facts["tensors"] == expected
    assert facts["versions"][backend] == HERE["versions"][backend] and facts["versions"][backend] in facts["runs_on"]
    assert facts["batch"] == ([1, 2, 8] if backend == "tensorrt_rtx" else [1, 1, None]) and facts["flags"]
    assert facts["built"]["on"] == HERE and 0 <= facts["built"]["seconds"] < 60 and "T" in facts["built"]["at"]
    assert facts["requires"] == f"{module.DISTRIBUTION}=={HERE['versions'][backend]}"
    assert ("layers" in facts) == (backend == "tensorrt_rtx")


@pytest.mark.parametrize(("backend", "file"), CPUS)
def test_what_check_lets_load_loads_and_answers(built: Path, backend: str, file: str) -> None:
    assert passport.check(built / backend / file, HERE) == passport.Verdict("load")
    x = np.zeros((3, 1, 28, 28), np.float32)
    assert backends.backend(backend).load(built / backend / file, 1)(x).shape == (3, 4)


@pytest.mark.parametrize(("backend", "file"), CPUS)
def test_an_engine_that_a_machine_objects_to_is_named_not_loaded(built: Path, backend: str, file: str) -> None:
    """As an engine of TensorRT for RTX is on a GPU it was not built for: `evaluate` and `measure` go on without it."""
    facts = passport.read(built / backend / file)
    assert engines.Engine("engine", built / backend / file, facts).missing is None
    newer = facts | {"versions": {backend: "9999.1"}}
    assert "9999.1, the target has" in str(engines.Engine("engine", built / backend / file, newer).missing)


@pytest.mark.parametrize(("backend", "file"), ENGINES)
def test_one_changed_bit_is_refused(taken: Callable[[str, str], Path], backend: str, file: str) -> None:
    engine = taken(backend, file)
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    verdict = passport.check(engine, with_gpu())
    assert verdict.answer == "refuse" and not verdict.command
    assert "its bytes are not those of its passport" in verdict.reasons[0] and "build stage" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "int8.onnx: no passport beside it"),
        ("", "no whole passport; run the build stage again"),
        ("[]", "no whole passport"),
        ("{}", "no whole passport"),
        ('{"sha256": "0"}', "no whole passport"),
        (b"\xff\xfe{", "no whole passport"),
        (lambda text: text[: len(text) // 2], "no whole passport"),
        (lambda text: text.replace('"flags"', '"flogs"'), "no whole passport"),
        (
            lambda text: text.replace('"backend": "onnxruntime"', '"backend": "abacus"'),
            "no backend 'abacus' here; there",
        ),
    ],
    ids=["none", "empty", "list", "nothing", "hash alone", "no text", "torn", "misspelt", "strange backend"],
)
def test_an_engine_without_a_whole_passport_is_refused(
    taken: Callable[[str, str], Path], content: Any, words: str
) -> None:
    engine = taken("onnxruntime", "int8.onnx")
    path = passport.beside(engine)
    before = path.read_text()
    path.unlink()
    if content is not None:
        said = content(before) if callable(content) else content
        path.write_bytes(said if isinstance(said, bytes) else said.encode())
    verdict = passport.check(engine, HERE)
    assert verdict.answer == "refuse" and words in verdict.reasons[0]


@pytest.mark.parametrize(
    ("machine", "answer", "words"),
    [
        (with_gpu(), "load", ""),
        (with_gpu(compute_capability="8.0"), "load", ""),
        (with_gpu(compute_capability="13.0"), "load", ""),
        (
            with_gpu(compute_capability="9.0", name="NVIDIA H100"),
            "rebuild",
            "or newer, the target's GPU 'NVIDIA H100' has 9.0",
        ),
        (with_gpu(compute_capability="7.5"), "rebuild", "has 7.5"),
        (
            with_gpu(driver_cuda="12.8"),
            "rebuild",
            "built with CUDA 13, the driver of the target's GPU 'NVIDIA L4' is for 12.8",
        ),
        (HERE | {"gpu": None}, "refuse", "the target has no NVIDIA GPU"),
        (with_version("tensorrt_rtx", "1.5.0.114"), "rebuild", "the target has 1.5.0.114"),
        (with_version("tensorrt_rtx", "9.0.0"), "rebuild", "the target has 9.0.0"),
        (with_version("tensorrt_rtx", None), "rebuild", "the target has none"),
    ],
    ids=["8.9", "8.0", "13.0", "9.0", "7.5", "old driver", "no GPU", "older", "newer", "not installed"],
)
def test_an_engine_of_tensorrt_rtx_loads_on_its_targets_alone(
    built: Path, machine: dict[str, Any], answer: str, words: str
) -> None:
    verdict = passport.check(built / "tensorrt_rtx/int8.rtx", machine)
    assert verdict.answer == answer and words in "; ".join(verdict.reasons)
    expected = ".venv/bin/dvc repro --force --single-item build@toy-tensorrt_rtx"
    assert verdict.command == (expected if answer == "rebuild" else "")


@pytest.mark.parametrize(("backend", "title"), [("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")])
def test_an_older_library_than_the_engine_was_tried_with_is_told(built: Path, backend: str, title: str) -> None:
    engine, own = built / backend / "fp32.onnx", HERE["versions"][backend]
    for version in (own, "9999.1", "9999.1rc1", own.rpartition(".")[0]):
        assert passport.check(engine, with_version(backend, version)).answer == "load", version
    for version, words in (("1.2.3", f"tried with {title} {own}, the target has 1.2.3"), (None, f"has no {title}")):
        verdict = passport.check(engine, with_version(backend, version))
        assert verdict.answer == "rebuild" and words in verdict.reasons[0]
        assert verdict.command.endswith(f" build@toy-{backend}")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_int8_is_judged_anew_where_the_arithmetic_is_another(built: Path, backend: str) -> None:
    here = target.int8_arithmetic(HERE)
    machine = HERE | {"architecture": "x86_64", "instruction_sets": OTHERS[here]}
    there = target.int8_arithmetic(machine)
    verdict = passport.check(built / backend / "int8.onnx", machine)
    assert {here, there} == {"exact", "saturating"} and verdict.answer == "rebuild"
    assert f"judged with {here} INT8 arithmetic, the target's is {there}" in verdict.reasons[0]
    assert verdict.command == ".venv/bin/dvc repro --force --single-item evaluate@toy"
    assert passport.check(built / backend / "fp32.onnx", machine).answer == "load"


def test_the_arithmetic_is_that_of_the_instruction_sets() -> None:
    for architecture, sets, expected in (
        ("x86_64", ["avx2"], "saturating"),
        ("AMD64", ["avx2", "avx512f"], "saturating"),
        ("x86_64", ["avx2", "avx_vnni"], "exact"),
        ("x86_64", ["avx512f", "avx512_vnni"], "exact"),
        ("aarch64", [], "exact"),
    ):
        assert target.int8_arithmetic({"architecture": architecture, "instruction_sets": sets}) == expected


def test_the_command_says_what_it_is_and_that_it_loads(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = built / "onnxruntime" / "int8.onnx"
    assert cli.main(["check", str(engine)]) == 0
    out = capsys.readouterr().out
    said = " ".join(out.split())
    for words in ("onnxruntime-int8, INT8, 0.01 MB", f"on {HERE['cpu']}", "runs on any CPU, by ONNX Runtime"):
        assert words in said
    assert str(engine) in out.replace("\n  ", "") and out.endswith("\n  load\n")


def test_a_folder_is_checked_engine_by_engine_in_80_columns(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(built)]) == (0 if HERE["gpu"] else 3)
    blocks = capsys.readouterr().out.strip().split("\n\n")
    assert len(blocks) == len(ENGINES) and max(len(line) for text in blocks for line in text.splitlines()) <= 80
    assert cli.main(["check", str(built / "openvino")]) == 0
    assert capsys.readouterr().out.count("\n  load") == 2


def test_another_machine_is_asked_by_its_file(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `engineworks target` prints there is what `--on` takes here."""
    assert cli.main(["target"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == HERE
    server, engine = tmp_path / "server.json", str(built / "tensorrt_rtx" / "fp32.rtx")
    for gpu, answer in ((ADA, "load"), (ADA | {"compute_capability": "9.0"}, "rebuild"), (None, "refuse")):
        code = 0 if answer == "load" else 3
        server.write_text(json.dumps(facts | {"gpu": gpu}))
        assert cli.main(["check", engine, "--on", str(server)]) == code
        out = capsys.readouterr().out
        assert ("\n    .venv/bin/dvc repro --force --single-item build@toy-tensorrt_rtx\n" in out) == (
            answer == "rebuild"
        )
        assert cli.main(["check", engine, "--on", str(server), "--json"]) == code
        (found,) = json.loads(capsys.readouterr().out)
        assert (found["path"], found["precision"], found["answer"]) == (engine, "fp32", answer)
        assert bool(found["reasons"]) == (code == 3) and bool(found["command"]) == (answer == "rebuild")


def test_what_is_refused_is_told_with_what_is_known(
    taken: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    engine = taken("onnxruntime", "fp32.onnx")
    passport.beside(engine).unlink()
    assert cli.main(["check", str(engine)]) == 3
    assert "\n  refuse    " in capsys.readouterr().out
    assert cli.main(["check", str(engine), "--json"]) == 3
    (found,) = json.loads(capsys.readouterr().out)
    assert found["answer"] == "refuse" and found["engine"] is None and found["size_bytes"] > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gpu": "L4"}, "server.json: gpu: "),
        ({"gpu": {"name": "L4", "driver_cuda": "13.0"}}, "gpu.compute_capability: missing"),
        ({"gpu": ADA | {"compute_capability": "89"}}, "gpu.compute_capability: "),
        ({"versions": {"onnxruntime": 1.3}}, "versions.onnxruntime: .*got 1.3"),
        ({"versions": {"onnxruntime": "new"}}, "versions.onnxruntime: .*got 'new'"),
        ({"instruction_sets": "avx2"}, "instruction_sets: .*got 'avx2'"),
        *[({key: ...}, f"server.json: {key}: missing") for key in ("architecture", "gpu", "versions", "cpu")],
        ("{", "server.json: no JSON"),
        ("", "server.json: no JSON"),
        (b"\xff\xfe{\0", "server.json: no JSON"),
        ("[" * 100_000, "server.json: no JSON"),
        ("[1]", r"server.json: Input should be a valid dictionary.*got \[1\]"),
    ],
    ids=str,
)
def test_a_broken_target_is_one_sentence(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, words: str
) -> None:
    server = tmp_path / "server.json"
    content = change
    if isinstance(change, dict):
        content = json.dumps({name: value for name, value in (HERE | change).items() if value is not ...})
    server.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert cli.main(["check", str(built), "--on", str(server)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("error: ") and out.count("\n") == 1
    assert re.search(words, out), out
    assert out.endswith("make it anew on that machine: engineworks target > server.json\n")


def test_what_is_not_there_is_an_error(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # no params.yaml here: it takes none
    shutil.copytree(built / "openvino", "torn")
    Path("torn/build.json").write_text('{"engines"')
    for words, said in (
        (["nowhere.onnx"], "nowhere.onnx: no such file"),
        (["."], "no engines here; give an engine, or a folder such as models/build/fashion"),
        ([str(built), "--on", "nowhere.json"], "nowhere.json: No such file"),
        (["torn"], "torn/build.json: no list of engines; run the build stage again"),
    ):
        assert cli.main(["check", *words]) == 1
        assert said in capsys.readouterr().out
    assert cli.main(["status"]) == 1 and "no params.yaml here" in capsys.readouterr().out


def test_both_commands_are_quick_import_nothing_heavy_and_write_nothing(built: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    for line in (["target"], ["check", str(built)]):
        code = f"import sys; from flows import cli; cli.main({line}); print(*sys.modules, file=sys.stderr)"
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        heavy = {
            "torch",
            "numpy",
            "onnx",
            "onnxruntime",
            "openvino",
            "tensorrt_rtx_bindings",
            "prefect",
            "mlflow",
            "dvc",
        }
        assert done.stdout and not set(done.stderr.split()) & heavy
    assert not list(tmp_path.iterdir()) and before == {path: path.stat().st_mtime_ns for path in built.rglob("*")}
