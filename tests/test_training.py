"""Training: what a kill costs, and what wrong numbers end in."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import toys


class Killed(BaseException):
    """Ends a training as abruptly as a test can, without ending the test."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.prepared(tmp_path_factory.mktemp("training"))


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Training takes the signals for itself; give them back."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


def train(data: Path, name: str, **knobs: Any) -> dict[str, Any]:
    """Train into a folder of this name; return the verdict."""
    from tasks.train import train as stage

    out = data / name
    paths = data / "prepare", data / "augment", out / "out", out / "curves", out / "metrics.json"
    stage(toys.WORKLOAD, *paths, **toys.TRAIN | knobs)
    return dict(json.loads((out / "metrics.json").read_text()))


def rows(data: Path, name: str) -> list[list[str]]:
    """Return the curves without what a clock said."""
    lines = (data / name / "curves" / "curves.csv").read_text().splitlines()
    clocks = [lines[0].split(",").index(column) for column in ("seconds", "input_stall")]
    return [[cell for i, cell in enumerate(line.split(",")) if i not in clocks] for line in lines]


def weights(data: Path, name: str) -> bytes:
    return (data / name / "out" / "weights.safetensors").read_bytes()


def workplace(data: Path, name: str) -> Path:
    return next((data / name / "out.training").iterdir())


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what makes training die after some steps; a checkpoint is written every seventh."""
    from tasks.judge import Judge

    original = Judge.on_train_batch_end
    steps: list[int] = []

    def end(self: Any, trainer: Any, *rest: Any) -> None:
        if trainer.global_step % 7 == 0:
            self.saved = -1e9
        original(self, trainer, *rest)
        if steps and trainer.global_step == steps[0]:
            steps.pop(0)
            raise Killed

    monkeypatch.setattr(Judge, "on_train_batch_end", end)

    def at(data: Path, name: str, *wanted: int, **knobs: Any) -> None:
        for step in wanted:
            steps[:] = [step]
            with pytest.raises(Killed):
                train(data, name, **knobs)

    return at


@pytest.fixture(scope="module")
def whole(data: Path) -> dict[str, Any]:
    return train(data, "whole")


@pytest.mark.parametrize("steps", [(5,), (37,), (39,), (25, 60)], ids=str)
def test_a_training_that_was_killed_ends_as_if_it_had_not_been(
    data: Path, whole: dict[str, Any], kill: Any, steps: tuple[int, ...]
) -> None:
    """38 steps an epoch: in mid-epoch, before its last batch, at its end, and three times in a row."""
    name = f"killed-{steps}"
    kill(data, name, *steps)
    verdict = train(data, name)
    assert weights(data, name) == weights(data, "whole") and rows(data, name) == rows(data, "whole")
    assert verdict["resumes"] == (0 if steps == (5,) else len(steps))
    assert not (data / name / "out.training").exists()


def test_the_seconds_before_the_kill_count(data: Path, kill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    clock = time.monotonic
    with monkeypatch.context() as patch:
        patch.setattr("tasks.judge.time.monotonic", lambda: 1000 * clock())
        kill(data, "seconds", 20)
    assert 100 < train(data, "seconds")["seconds"] < 100_000


def test_other_knobs_start_afresh_and_take_nothing_of_the_old_weights(data: Path, kill: Any) -> None:
    kill(data, "edited", 30)
    old = workplace(data, "edited")
    verdict = train(data, "edited", seed=2)
    assert verdict["resumes"] == 0 and not old.exists()
    train(data, "other", seed=2)
    assert weights(data, "edited") == weights(data, "other")


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    data: Path, whole: dict[str, Any], kill: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    kill(data, "damaged", 30)
    older, newer = sorted(workplace(data, "damaged").glob("step-*.ckpt"))
    content = bytearray(newer.read_bytes())
    content[len(content) // 2] ^= 1
    newer.write_bytes(bytes(content))
    verdict = train(data, "damaged")
    said = capsys.readouterr().out
    assert f"checkpoint {newer.name} is damaged" in said and older.stem.replace("-", " ") in said
    assert verdict["resumes"] == 1 and weights(data, "damaged") == weights(data, "whole")


def test_a_checkpoint_without_its_hash_and_a_torn_one_are_no_checkpoints(data: Path, kill: Any) -> None:
    from tasks import checkpoints

    kill(data, "torn", 30)
    older, newer = sorted(workplace(data, "torn").glob("step-*.ckpt"))
    newer.write_bytes(newer.read_bytes()[:1000])
    checkpoints.mark(older).unlink()
    assert checkpoints.newest(workplace(data, "torn")) is None


def test_a_checkpoint_that_carries_code_is_refused_not_run(data: Path, tmp_path: Path) -> None:
    import pickle

    import torch

    from tasks.checkpoints import Durable

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        Durable().load_checkpoint(tmp_path / "evil.ckpt", weights_only=False)
    assert not (tmp_path / "ran").exists()


def test_a_kill_after_the_last_step_trains_nothing_again(
    data: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import pictures

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "curves", die)
        with pytest.raises(Killed):
            train(data, "late")
    monkeypatch.setattr("pytorch_lightning.Trainer.fit", die)
    assert train(data, "late")["value"] == whole["value"]
    assert weights(data, "late") == weights(data, "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_of_this_very_step(
    data: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.learner import Learner

    step = Learner.training_step
    name = f"signal-{number.name}"

    def signalled(self: Any, batch: Any, index: int) -> Any:
        if self.trainer.global_step == 11:
            signal.raise_signal(number)
        return step(self, batch, index)

    monkeypatch.setattr(Learner, "training_step", signalled)
    with pytest.raises(ValueError, match=rf"stopped by {number.name} at step 12; a checkpoint is kept"):
        train(data, name)
    assert [path.name for path in workplace(data, name).glob("*.ckpt")] == ["step-000000012.ckpt"]
    shutil.rmtree(data / name)


def poisoned(monkeypatch: pytest.MonkeyPatch, at: int, factor: float) -> None:
    """Multiply the weights of the third convolution at a step."""
    import torch

    from tasks.learner import Learner

    step = Learner.training_step

    def spoilt(self: Any, batch: Any, index: int) -> Any:
        if self.trainer.global_step == at:
            with torch.no_grad():
                self.network.block2[1].weight.mul_(factor)
        return step(self, batch, index)

    monkeypatch.setattr(Learner, "training_step", spoilt)


def test_a_loss_that_is_no_number_names_step_and_layer_and_keeps_the_checkpoint(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, at=50, factor=float("nan"))
    words = r"the loss is nan at step 50 \(epoch 2\), the weights 'block2.1.weight' are not finite; .*learning_rate"
    with pytest.raises(ValueError, match=words):
        train(data, "nan")
    from tasks import checkpoints

    kept = checkpoints.newest(workplace(data, "nan"))
    assert kept is not None and kept.name == "step-000000038.ckpt"


def test_infinite_outputs_name_the_first_layer_that_gave_them(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from tasks.learner import Learner

    step = Learner.training_step

    def spoilt(self: Any, batch: Any, index: int) -> Any:
        if self.trainer.global_step == 3:
            batch = (torch.full_like(batch[0], torch.inf), batch[1])
        return step(self, batch, index)

    monkeypatch.setattr(Learner, "training_step", spoilt)
    with pytest.raises(ValueError, match=r"at step 3 .*first layer with an output that is not finite is 'stem\.0'"):
        train(data, "infinite")


def test_an_exploding_loss_stops_before_it_is_infinite(data: Path) -> None:
    words = (
        r"the loss exploded, from .* to .* at step \d+ .*largest output is '.*'.*\(now 10000\)|the loss is (nan|inf)"
    )
    with pytest.raises(ValueError, match=words):
        train(data, "exploding", learning_rate=10000.0, weight_decay=0.1)


def test_the_explosion_is_told_by_the_losses_alone() -> None:
    from types import SimpleNamespace as Some

    import torch

    from tasks.health import WINDOW, Health

    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    network[0].weight.data.fill_(7.0)
    plugin = Some(forward_context=torch.no_grad)
    learner = Some(network=network, current=(torch.ones(1, 2), None), knobs={"learning_rate": 0.1})
    learner.trainer = trainer = Some(precision_plugin=plugin, global_step=60, current_epoch=0)
    health = Health(torch.zeros(1, 2))
    for _ in range(WINDOW):
        health.judge(2.0, trainer, learner)
    for _ in range(WINDOW):
        health.judge(19.0, trainer, learner)
    with pytest.raises(
        ValueError, match=r"exploded, from 2 to 20\.\d over 20 steps at step 60 .*largest output is '0'"
    ):
        for _ in range(WINDOW):
            health.judge(21.0, trainer, learner)


def test_a_loss_scale_that_collapses_is_told_from_one_that_adapts(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float16 with a scaler, on the CPU: gradients that overflow once are skipped, gradients that always do end it."""
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.plugins.precision import MixedPrecision

    from tasks.learner import Learner

    build = pl.Trainer.__init__

    def with_scaler(self: Any, **options: Any) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        options["plugins"] = [*options["plugins"], MixedPrecision("16-mixed", "cpu", scaler)]
        build(self, **options | {"precision": None})

    monkeypatch.setattr(pl.Trainer, "__init__", with_scaler)
    left = [1]

    def overflow(self: Any) -> None:
        if left[0]:
            left[0] -= 1
            self.network.head.weight.grad.fill_(torch.inf)

    monkeypatch.setattr(Learner, "on_after_backward", overflow)
    train(data, "adapts", max_epochs=1)
    table = [line.split(",") for line in (data / "adapts/curves/curves.csv").read_text().splitlines()]
    row = dict(zip(*table, strict=True))
    assert float(row["loss_scale"]) == 32.0 and row["skipped_steps"] == "1"
    left[0] = 1000
    words = r"loss scale .* collapsed to 0.5 after 7 skipped steps .*not finite in 'head.weight'"
    with pytest.raises(ValueError, match=words):
        train(data, "collapses")


def test_precisions_are_compared_at_the_start_and_at_the_end(whole: dict[str, Any]) -> None:
    compared = whole["against_float32"]
    assert set(compared) == {"start", "end"}
    for each in compared.values():
        assert each["n"] == 256 and 0 < each["max_difference"] < 1 and each["agreement"] > 0.9


MEMORY = """
import resource, sys
import numpy as np
from tasks import allocator
if sys.argv[1] == "kept":
    allocator.keep_memory()
def once():
    np.ones(50 << 20, np.uint8)
once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_large_tensors_find_the_memory_of_those_before_them() -> None:
    def faults(way: str) -> int:
        return int(subprocess.check_output([sys.executable, "-c", MEMORY, way], text=True))

    assert faults("kept") < 100
    assert faults("as it is") > 5 * (50 << 20) / 2**21, "a page has 2 MB at most"
