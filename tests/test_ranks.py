"""Several processes that train one network: each sample once, the same weights after a kill, and nobody left over."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks import ranks, shards
from tests import toys
from tests.miniature import ROOT, free_ports

STILL = {"flip": {"probability": 0.5}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.prepared(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def encoded(data: Path) -> list[bytes]:
    return [sample for sample, _ in shards.read(data / "prepare", "train")][:130]


def loaders(data: Path, folder: Path, ranks: int, batch: int, training: bool = True, seed: int = 1) -> list[Any]:
    """Return the batches of each process; a sample's label is its number."""
    from tasks.problems.classification import data as module

    spec = json.loads((data / "prepare" / "spec.json").read_text())
    changes = STILL if training else None
    return [module.loader(folder, "train", spec, batch, changes, seed, rank=r, ranks=ranks) for r in range(ranks)]


def epochs(loader: Any, count: int) -> list[list[list[int]]]:
    return [[y.tolist() for _, y in loader] for _ in range(count)]


@pytest.mark.parametrize(("samples", "processes", "batch"), [(129, 2, 16), (95, 3, 8)])
def test_each_sample_comes_once_an_epoch_and_all_processes_take_as_many_steps(
    data: Path, encoded: list[bytes], tmp_path: Path, samples: int, processes: int, batch: int
) -> None:
    """Of 129 samples two processes have 64 and 65: one has four batches, the other a sample more."""
    shards.write(tmp_path, "train", zip(encoded[:samples], range(samples), strict=False), 40)
    every = loaders(data, tmp_path, processes, batch)
    found = [epochs(each, 3) for each in every]
    for epoch in zip(*found, strict=True):
        assert [len(part) for part in epoch] == [samples // (processes * batch)] * processes == [len(e) for e in every]
        assert all(len(step) == batch for part in epoch for step in part)
        seen = [sample for part in epoch for step in part for sample in step]
        assert len(set(seen)) == len(seen), "the rest is less than a batch"
    assert {s for part in found for epoch in part for step in epoch for s in step} == set(range(samples))
    assert found == [epochs(each, 3) for each in loaders(data, tmp_path, processes, batch)]
    assert found != [epochs(each, 3) for each in loaders(data, tmp_path, processes, batch, seed=2)]
    plain = [epochs(each, 2) for each in loaders(data, tmp_path, processes, batch, training=False)]
    for epoch in zip(*plain, strict=True):
        assert len({len(part) for part in epoch}) == 1, "some wait for no one: the last batch may be of no sample"
        assert sorted(s for part in epoch for step in part for s in step) == list(range(samples))


@pytest.mark.parametrize("given", [4, 6])
def test_every_process_goes_on_with_its_own_next_batch(
    data: Path, encoded: list[bytes], tmp_path: Path, given: int
) -> None:
    """Four batches an epoch: at its end, and in mid-epoch of the second."""
    shards.write(tmp_path, "train", zip(encoded[:129], range(129), strict=False), 40)
    expected = [epochs(each, 3) for each in loaders(data, tmp_path, 2, 16)]
    for loader, resumed, whole in zip(*(loaders(data, tmp_path, 2, 16) for _ in range(2)), expected, strict=True):
        for _ in range(given // 4):
            epochs(loader, 1)
        walk = iter(loader)
        for _ in range(given % 4):
            next(walk)
        resumed.load_state_dict(loader.state_dict())
        rest = epochs(resumed, 2)
        assert rest[0] == whole[given // 4][given % 4 :] and rest[1] == whole[given // 4 + 1]


@pytest.mark.parametrize(
    ("devices", "nodes", "batch", "environment", "words"),
    [
        (4096, 1, 4096, {}, r"train\.devices: 4096, but this machine has \d+ (cores|GPUs); lower it"),
        (1, 3, 32, {}, r"train\.batch_size: 32 can't be shared evenly by 3 processes .* make it a multiple of 3"),
        (1, 2, 32, {"NODE_RANK": "0"}, r"train\.num_nodes: 2, but MASTER_ADDR, MASTER_PORT is not set; run the stage"),
        (1, 2, 32, {"NODE_RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, r"NODE_RANK: 2, but train\.num_nodes"),
    ],
)
def test_what_does_not_suit_is_refused_by_name(
    devices: int, nodes: int, batch: int, environment: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ranks.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=words):
        ranks.here(devices, nodes, batch)


@pytest.mark.parametrize("knob", ["devices", "num_nodes"])
def test_a_training_by_nobody_is_no_training(knob: str) -> None:
    from tasks.command import knobs
    from tasks.train import train

    section = toys.TRAIN | {"network": {"name": "small", "width": 16}, knob: 0}
    with pytest.raises(ValueError, match=rf"pipelines\.fashion\.train\.{knob}: .* greater than or equal to 1, got 0"):
        knobs(train, "fashion", {"modality": "image", "problem": "classification", "train": section})


def run(root: str, name: str, knobs: dict[str, Any]) -> None:
    """Train below a folder; what a process of its own does here."""
    from tasks import guard
    from tasks.pretrained import Pretrained
    from tasks.settings import quiet
    from tasks.train import train

    quiet()
    data, out = Path(root), Path(root, name)
    paths = data / "prepare", data / "augment", out / "out", out / "curves", out / "metrics.json"
    if "pretrained" in knobs:
        knobs["pretrained"] = Pretrained(**knobs["pretrained"])
    try:
        train(toys.WORKLOAD, *paths, **toys.TRAIN | knobs)
    except ValueError as error:
        sys.exit(f"error: {guard.sentence(error)}")


class Training:
    """A training in a process of its own, which starts others."""

    def __init__(self, data: Path, name: str, environment: dict[str, str] | None = None, **knobs: Any) -> None:
        self.out, self.log = data / name, data / f"{name}.log"
        words = f"from tests.test_ranks import run; run({str(data)!r}, {name!r}, {knobs!r})"
        self.process = psutil.Popen(
            [sys.executable, "-W", "ignore", "-c", words],
            cwd=ROOT,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def siblings(self) -> list[psutil.Process]:
        return [each for each in self.process.children() if "spawn_main" in " ".join(each.cmdline())]

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 300
        while not (found := condition()):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return found

    def under_way(self) -> psutil.Process:
        """Wait for a checkpoint; return the sibling."""
        self.wait_for(lambda: list(self.out.glob("out.training/*/step-*.ckpt")))
        (sibling,) = self.siblings()
        return sibling

    def end(self) -> tuple[int, str]:
        code = self.process.wait(300)
        return code, self.log.read_text()

    def whole(self) -> dict[str, Any]:
        """Wait for its end, which has to be a good one; return the verdict."""
        code, said = self.end()
        assert code == 0, said
        return dict(json.loads((self.out / "metrics.json").read_text()))

    @property
    def weights(self) -> bytes:
        return (self.out / "out" / "weights.safetensors").read_bytes()


LONG = {"devices": 2, "max_epochs": 5}


@pytest.fixture(scope="module")
def two(data: Path) -> Training:
    return Training(data, "two", **LONG)


@pytest.fixture
def undisturbed(two: Training) -> Iterator[Training]:
    two.whole()
    yield two


def right(data: Path, training: Training) -> int:
    """Count a network's right answers on validation, in one process."""
    import torch
    from safetensors.torch import load_file

    from tasks import networks
    from tasks.problems.classification import data as module

    spec = json.loads((data / "prepare" / "spec.json").read_text())
    network = networks.build(spec, json.loads((training.out / "out/train.json").read_text())["network"]).eval()
    network.load_state_dict(load_file(training.out / "out/weights.safetensors"))
    with torch.no_grad():
        every = module.arrays(data / "prepare", "validation", spec, 100)
        return sum(int((network(torch.from_numpy(x)).argmax(1).numpy() == y).sum()) for x, y in every)


@pytest.mark.slow
def test_two_processes_reach_the_target_of_one_and_count_every_validation_sample(data: Path) -> None:
    knobs = {"target": 0.95, "precision": "32-true", "max_epochs": 4}
    trainings = [Training(data, f"target-{devices}", devices=devices, **knobs) for devices in (1, 2)]
    alone, together = (each.whole() for each in trainings)
    assert alone["reached"] and together["reached"] and together["epochs"] <= alone["epochs"] + 1
    assert together["samples_per_epoch"] == alone["samples_per_epoch"] == 1216
    assert right(data, trainings[1]) == round(together["value"] * together["n"])


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["first", "sibling"])
def test_a_kill_of_one_ends_all_and_the_next_run_ends_in_the_same_weights(
    data: Path, undisturbed: Training, whom: str
) -> None:
    training = Training(data, whom, **LONG)
    sibling = training.under_way()
    begun = time.monotonic()
    (sibling if whom == "sibling" else training.process).send_signal(signal.SIGKILL)
    code, said = training.end()
    sibling.wait(10)
    assert time.monotonic() - begun < 15 and not sibling.is_running()
    if whom == "sibling":
        assert code == 1 and "error: process 1 of the training was ended by SIGKILL; the next run" in said
    again = Training(data, whom, **LONG)
    assert again.whole()["resumes"] == 1
    assert again.weights == undisturbed.weights


@pytest.mark.slow
def test_a_signal_to_all_leaves_a_checkpoint_of_that_step_to_go_on_from(data: Path, undisturbed: Training) -> None:
    """As DVC's process group is told."""
    training = Training(data, "told", **LONG)
    sibling = training.under_way()
    time.sleep(1)
    os.killpg(training.process.pid, signal.SIGTERM)
    code, said = training.end()
    assert code == 1 and "stopped by SIGTERM at step" in said and "Traceback" not in said, said
    assert not sibling.is_running()
    again = Training(data, "told", **LONG)
    assert again.whole()["resumes"] == 1
    assert again.weights == undisturbed.weights


@pytest.mark.slow
def test_what_goes_wrong_in_a_sibling_is_said_by_the_first(data: Path) -> None:
    """Its data has a label that no class has."""
    import shutil

    (copy := data / "spoilt").mkdir()
    for name in ("prepare", "augment"):
        shutil.copytree(data / name, copy / name)
    samples = list(shards.read(copy / "prepare", "train"))
    half = len(samples) // 2
    marked = [(sample, label if number < half else 99) for number, (sample, label) in enumerate(samples)]
    for path in shards.paths(copy / "prepare", "train"):
        path.unlink()
    shards.write(copy / "prepare", "train", marked, 500)
    code, said = Training(copy, "spoilt", devices=2).end()
    assert code == 1 and "Target 99 is out of bounds" in said, said


@pytest.mark.slow
def test_parts_that_rest_do_so_in_two_processes_too(data: Path) -> None:
    """The head alone learns for an epoch, then all but the stem, whose rate is none."""
    import torch
    from safetensors.torch import load_file, save_file

    from tasks import digest, networks

    spec = json.loads((data / "prepare" / "spec.json").read_text())
    path = data / "begun.safetensors"
    save_file(networks.build(spec, {"name": "small", "width": 16}).state_dict(), path)
    pretrained = {"file": str(path), "sha256": digest.sha256(path), "head_epochs": 1, "rate_decay": 0.6}
    training = Training(data, "rests", devices=2, pretrained=pretrained)
    training.whole()
    begun, last = (load_file(each) for each in (path, training.out / "out/weights.safetensors"))
    assert torch.equal(begun["stem.0.weight"], last["stem.0.weight"])
    assert not torch.equal(begun["block3.0.weight"], last["block3.0.weight"])


@pytest.mark.slow
def test_two_nodes_train_what_two_processes_of_one_do(data: Path, undisturbed: Training) -> None:
    """Both on loopback, each with half the cores; node 1 has a folder of its own and leaves nothing there."""
    (port,) = free_ports(1)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    meeting["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // 2))  # bits depend on it
    knobs = LONG | {"devices": 1, "num_nodes": 2}
    nodes = [Training(data, f"node-{n}", meeting | {"NODE_RANK": str(n)}, **knobs) for n in range(2)]
    assert nodes[0].whole()["samples_per_epoch"] == 1216
    code, said = nodes[1].end()
    assert code == 0 and "trained as node 1 of 2; what came of it is on node 0" in said
    assert not nodes[1].out.exists()
    assert nodes[0].weights == undisturbed.weights


@pytest.mark.slow
def test_nodes_that_would_train_other_things_are_refused(data: Path) -> None:
    (port,) = free_ports(1)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    nodes = [
        Training(data, f"other-{n}", meeting | {"NODE_RANK": str(n)}, num_nodes=2, learning_rate=0.1 + n)
        for n in range(2)
    ]
    for each in nodes:
        code, said = each.end()
        assert code == 1 and "error: train.num_nodes: knobs, data or code differ between the nodes" in said, said
