"""select: five rules, an objective and noise decide, on toy figures of engines that were built for real."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import engines, passport
from tasks.backends.tensorrt_rtx import Options
from tasks.build import build
from tasks.measure import SINGLES, summary
from tasks.quantize import DIALECTS, to_int8
from tasks.select import select
from tests import networks

ROUNDS = 15
REFERENCE = "torch-fp32"
CPU = ["onnxruntime"]
KNOBS: dict[str, Any] = {
    "objective": "latency",
    "max_accuracy_drop": 0.005,
    "max_class_drop": 0.03,
    "min_agreement": 0.97,
    "max_p99_ms": 50,
    "max_size_mb": 100,
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the engines of a hand-made network: two backends, three precisions."""
    folder = tmp_path_factory.mktemp("built")
    source = networks.convolutional(folder / "fp32.onnx")
    networks.half(source, folder / "fp16.onnx")
    x = np.random.default_rng(1).normal(size=(8, 1, 28, 28)).astype(np.float32)
    files = {precision: dict.fromkeys(DIALECTS, f"{precision}.onnx") for precision in ("fp32", "fp16")}
    files["int8"] = {dialect: f"int8.{dialect}.onnx" for dialect in DIALECTS}
    for dialect, name in files["int8"].items():
        to_int8(source, folder / name, [x], dialect)
    origin = {"files": files, "calibration": {"samples": 8, "sha256": "0"}, "preprocessing_sha256": "0"}
    (folder / "quantize.json").write_text(json.dumps(origin))
    options: Any = type("All", (), {"tensorrt_rtx": Options(compute_capabilities=[])})()
    for backend in (*CPU, "tensorrt_rtx"):
        build("toy", backend, folder, folder / "build" / backend, max_batch=8, options=options)
    return folder / "build"


@pytest.fixture(scope="module", autouse=True)
def drawn() -> None:
    """Import what draws before the clock of the first test runs."""
    from tasks.pictures import pyplot

    pyplot()


def judged(accuracy: float = 0.91, drop: float = 0.0, agreement: float = 1.0, **facts: Any) -> dict[str, Any]:
    """Return a row as evaluate leaves it."""
    worst = {"class": "box", "drop": drop}
    spread = {"gained": 0, "lost": 0, "delta": 0.0, "delta_low": -0.001, "delta_high": 0.001}
    row = {
        "from": REFERENCE,
        "spent_by": "build",
        "accuracy": accuracy,
        "low": accuracy - 0.01,
        "high": accuracy + 0.01,
    }
    return row | {"n": 10_000, "agreement": agreement, "per_class": {}, "worst_class": worst, **spread, **facts}


def timed(ms: float | Sequence[float], rate: float | Sequence[float] = 1000, slowest_ms: float = 0) -> dict[str, Any]:
    """Return a row as measure leaves it, from the time of a call and the samples/s of each round."""
    times = [ms] * ROUNDS if isinstance(ms, int | float) else list(ms)
    rates = [float(rate)] * ROUNDS if isinstance(rate, int | float) else list(rate)
    singles = [[each / 1e3] * (SINGLES - 2) + [max(each, slowest_ms) / 1e3] * 2 for each in times]
    return summary(singles, {1: [1.0] * ROUNDS, 32: rates}, 1) | {"memory_mb": 20.0}


Rows = dict[str, dict[str, Any]]


def decided(built: Path, folder: Path, scores: Rows, times: Rows, backends: list[str] = CPU, **knobs: Any) -> Any:
    """Run the stage; what is not said of an engine is that it is as good as the original and takes 1 ms."""
    names = [REFERENCE, *(engine.name for engine in engines.read(built, backends))]
    original = {"from": None, "spent_by": "train"}
    rows = {name: judged() | (original if name == REFERENCE else {}) for name in names} | scores
    timings = {name: timed(1.0) for name in names} | times
    (folder / "evaluate.json").write_text(json.dumps({"reference": REFERENCE, "n": 10_000, "rows": rows}))
    (folder / "measure.json").write_text(json.dumps({"rows": timings}))
    files = [
        folder / "evaluate.json",
        folder / "measure.json",
        built,
        folder / "new" / "out.json",
        folder / "new" / "out.png",
    ]
    select(backends, *files, **KNOBS | knobs)
    return json.loads((folder / "new" / "out.json").read_text())


def verdicts(table: Any) -> dict[str, str]:
    return {row["engine"]: row["verdict"] for row in table["rows"]}


QUICK = {"onnxruntime-int8": timed(0.5, 2000)}


@pytest.mark.parametrize(
    ("score", "time", "words"),
    [
        (judged(accuracy=0.904), timed(0.5), "accuracy drop 0.0060 over max_accuracy_drop 0.005 (n=10,000)"),
        (judged(drop=0.04), timed(0.5), "drop of class 'box' 0.0400 over max_class_drop 0.03 (n=10,000)"),
        (judged(agreement=0.96), timed(0.5), "agreement with FP32 0.9600 under min_agreement 0.97 (n=10,000)"),
        (judged(), timed(0.5, slowest_ms=51), "p99 51.000 ms over max_p99_ms 50 (n=900 calls)"),
    ],
)
def test_a_broken_rule_is_named_with_value_bound_and_n(
    built: Path, tmp_path: Path, score: dict[str, Any], time: dict[str, Any], words: str
) -> None:
    table = decided(built, tmp_path, {"onnxruntime-int8": score}, {"onnxruntime-int8": time})
    assert verdicts(table) == {REFERENCE: "reference", "onnxruntime-fp32": "chosen", "onnxruntime-int8": words}
    assert table["chosen"] == "onnxruntime-fp32"


def test_an_engine_that_is_too_large_is_refused_with_its_size(built: Path, tmp_path: Path) -> None:
    sizes = {engine.name: engine.path.stat().st_size for engine in engines.read(built, CPU)}
    small, large = sorted(sizes, key=lambda name: sizes[name])
    bound = sizes[small] / 1e6
    table = decided(built, tmp_path, {}, {large: timed(0.5)}, max_size_mb=bound)
    assert table["chosen"] == small, "it is as large as allowed"
    assert verdicts(table)[large] == f"size {sizes[large] / 1e6:.3f} MB over max_size_mb {bound:g}"


def test_an_engine_at_every_bound_passes(built: Path, tmp_path: Path) -> None:
    scores = {"onnxruntime-int8": judged(accuracy=0.905, drop=0.03, agreement=0.97)}
    table = decided(built, tmp_path, scores, {"onnxruntime-int8": timed(0.5, slowest_ms=50)})
    assert table["chosen"] == "onnxruntime-int8"


def test_all_broken_rules_are_named(built: Path, tmp_path: Path) -> None:
    scores = {"onnxruntime-int8": judged(accuracy=0.5, drop=0.6, agreement=0.4)}
    table = decided(built, tmp_path, scores, {"onnxruntime-int8": timed(0.5, slowest_ms=60)}, max_size_mb=0.001)
    said = verdicts(table)["onnxruntime-int8"].split("; ")
    rules = ["max_accuracy_drop", "max_class_drop", "min_agreement", "max_p99_ms", "max_size_mb"]
    assert [next(rule for rule in rules if rule in each) for each in said] == rules


def test_where_none_passes_none_is_chosen(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = decided(built, tmp_path, {}, QUICK, max_p99_ms=0.1)
    assert table["chosen"] is None and table["why"] == "" and capsys.readouterr().out == "chosen: none\n"
    assert all("over max_p99_ms 0.1" in words for name, words in verdicts(table).items() if name != REFERENCE)
    assert [rung["step"] for rung in table["budget"]] == [REFERENCE]


@pytest.mark.parametrize(("objective", "chosen"), [("latency", "onnxruntime-int8"), ("throughput", "onnxruntime-fp32")])
def test_the_objective_says_what_best_means(built: Path, tmp_path: Path, objective: str, chosen: str) -> None:
    times = {"onnxruntime-fp32": timed(1.0, 3000), "onnxruntime-int8": timed(0.5, 2000)}
    table = decided(built, tmp_path, {}, times, objective=objective)
    assert table["chosen"] == chosen and table["why"] == "" and table["objective"] == objective
    beaten = {"latency": "slower", "throughput": "less throughput"}[objective]
    assert beaten in verdicts(table).values()


@pytest.mark.parametrize("objective", ["latency", "throughput"])
@pytest.mark.parametrize(("wins", "chosen"), [(11, "onnxruntime-fp32"), (12, "onnxruntime-int8")])
def test_only_beyond_noise_does_the_lower_precision_win(
    built: Path, tmp_path: Path, objective: str, wins: int, chosen: str
) -> None:
    """Of 15 rounds chance alone wins 11 or more in 5.9 % of all cases, and 12 or more in 1.8 %."""
    uneven = timed([0.9] * wins + [1.1] * (ROUNDS - wins), [1100] * wins + [900] * (ROUNDS - wins))
    table = decided(built, tmp_path, {}, {"onnxruntime-int8": uneven}, objective=objective)
    assert table["chosen"] == chosen
    if chosen == "onnxruntime-fp32":
        assert table["why"] == "as onnxruntime-int8 is within noise of it"
        assert verdicts(table)["onnxruntime-int8"] == "no faster, by noise"
    else:
        assert table["why"] == ""


def test_an_engine_that_the_server_cannot_load_is_passed_over(built: Path, tmp_path: Path) -> None:
    times = {f"tensorrt_rtx-{precision}": timed(0.1, 9000) for precision in ("fp32", "fp16", "int8")}
    table = decided(built, tmp_path, {}, times, [*CPU, "tensorrt_rtx"])
    assert table["chosen"] == "onnxruntime-fp32"
    for name in times:
        assert verdicts(table)[name] == "the server's environment can't load engines of tensorrt_rtx"


def test_an_engine_that_was_not_measured_is_not_chosen(built: Path, tmp_path: Path) -> None:
    gone = {"not_measured": "no NVIDIA driver on this machine"}
    names = [engine.name for engine in engines.read(built, ["tensorrt_rtx"])]
    rows: Rows = {name: {"from": "onnx-fp32", "spent_by": "build", **gone} for name in names}
    table = decided(built, tmp_path, rows, dict.fromkeys(names, gone), ["tensorrt_rtx"])
    assert table["chosen"] is None and len(names) == 3
    assert {verdicts(table)[name] for name in names} == {f"built, not measured here: {gone['not_measured']}"}


def test_the_original_network_is_never_chosen(built: Path, tmp_path: Path) -> None:
    table = decided(built, tmp_path, {}, {REFERENCE: timed(0.001, 1e6)})
    assert table["chosen"] == "onnxruntime-fp32" and verdicts(table)[REFERENCE] == "reference"


def test_the_table_has_a_row_per_engine_with_size_and_bounds(built: Path, tmp_path: Path) -> None:
    table = decided(built, tmp_path, {}, QUICK)
    assert table["bounds"] == {name: value for name, value in KNOBS.items() if name != "objective"}
    assert [row["engine"] for row in table["rows"]] == [REFERENCE, "onnxruntime-fp32", "onnxruntime-int8"]
    for row, engine in zip(table["rows"][1:], engines.read(built, CPU), strict=True):
        assert row["size_bytes"] == engine.path.stat().st_size == passport.read(engine.path)["size_bytes"]
        assert row["precision"] == engine.facts["precision"] and row["memory_mb"] == 20.0
        assert not {"rounds", "per_class", "refusals"} & row.keys()


def test_the_budget_is_drawn_up_to_the_chosen_engine(built: Path, tmp_path: Path) -> None:
    table = decided(built, tmp_path, {}, QUICK)
    assert [rung["step"] for rung in table["budget"]] == [REFERENCE, "onnxruntime-int8"]
    assert (tmp_path / "new" / "out.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
