"""The fitting of train: one process's part of it, from the shards to the verdict."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

from tasks import allocator, checkpoints, networks, pictures, precision, ranks
from tasks.health import Health
from tasks.judge import Judge
from tasks.learner import Learner
from tasks.pretrained import Pretrained, start
from tasks.ranks import Place
from tasks.stall import Stall
from tasks.workload import part

SAMPLE = 256  # validation samples on which mixed precision is compared with float32


def fit(
    place: Place, workload: str, prepare: Path, augment: Path, folder: Path, knobs: dict[str, Any], mark: str
) -> tuple[dict[str, Any], Path] | None:
    """Train, or go on from the newest checkpoint in `folder`; return the verdict and where the best weights lie.

    Of several processes the first alone writes, and returns anything.
    """
    refuse_others(mark)
    allocator.keep_memory()
    spec = json.loads((prepare / "spec.json").read_text())
    problem = part(workload, "loss")
    device = "gpu" if torch.cuda.is_available() else "cpu"
    pl.seed_everything(knobs["seed"], workers=True)
    batches, validation, sample = data(place, workload, prepare, augment, spec, knobs, device)
    network = networks.build(spec, knobs["network"])
    if knobs["pretrained"]:
        start(network, knobs["network"]["name"], Pretrained(**knobs["pretrained"]))
    learner = Learner(network.to(memory_format=torch.channels_last), problem, knobs, steps_per_epoch=len(batches))
    learner.health = health = Health(sample)
    stall = Stall(batches)
    judge = Judge(folder, knobs["target"], knobs["confidence"], knobs["max_epochs"], (health, stall))
    trainer = pl.Trainer(
        precision=precision.asked(knobs["precision"], device),
        max_epochs=knobs["max_epochs"],
        accelerator="auto",
        callbacks=[health, stall, judge],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,  # DALI ignores a reset in mid-epoch: a check would shorten epoch 1's validation
        use_distributed_sampler=False,
        default_root_dir=folder,
        **distribution(place, bool(knobs["pretrained"])),
    )
    resume(trainer, learner, judge, folder, batches, validation)
    if not ranks.first():
        return None
    pictures.curves(folder / "curves.png", judge.rows, knobs["target"], problem.METRIC)
    facts = {"n": spec["counts"]["validation"], "parameters": sum(p.numel() for p in network.parameters())}
    ran = {"precision_ran": trainer.precision, "against_float32": health.compared, "device": device}
    return judge.verdict() | {
        "metric": problem.METRIC,
        **facts,
        "precision_asked": knobs["precision"],
    } | ran, judge.weights


def refuse_others(mark: str) -> None:
    """Raise `ValueError` where nodes would train different things together."""
    if len(set(ranks.gathered(mark))) > 1:
        raise ValueError("train.num_nodes: knobs, data or code differ between the nodes; bring all to the same commit")


def data(
    place: Place, workload: str, prepare: Path, augment: Path, spec: dict[str, Any], knobs: dict[str, Any], device: str
) -> tuple[Any, Any, torch.Tensor]:
    """Return this process's batches of training and of validation, and the first validation samples."""
    module = part(workload, "data")
    augmentation = json.loads((augment / "augment.json").read_text())
    size = knobs["batch_size"] // place.ranks
    batches = module.loader(prepare, "train", spec, size, augmentation, knobs["seed"], device, **share(place))
    validation = module.loader(prepare, "validation", spec, 500, device=device, **share(place))
    (sample, _), *_ = itertools.islice(module.arrays(prepare, "validation", spec, SAMPLE), 1)
    return ranks.Shared(batches) if place.ranks > 1 else batches, validation, torch.from_numpy(sample)


def share(place: Place) -> dict[str, int]:
    """Return which part of the data is this process's, and its threads for it; nothing where it has all."""
    if place.ranks == 1:
        return {}
    threads = max(1, min(2, len(os.sched_getaffinity(0)) // place.devices))
    return {"rank": place.rank, "ranks": place.ranks, "threads": threads}


def distribution(place: Place, rests: bool) -> dict[str, Any]:
    """Return how Lightning is to train at a place; `rests` where parts of the network don't learn for a while."""
    plugins: list[Any] = [checkpoints.Durable()]
    if place.ranks == 1:
        return {"devices": 1, "plugins": plugins}
    strategy = DDPStrategy(find_unused_parameters=rests)
    plugins.append(Settled(place))
    return {"devices": place.devices, "num_nodes": place.nodes, "strategy": strategy, "plugins": plugins}


class Settled(LightningEnvironment):
    """Tells Lightning that the processes are there already, and which one this is."""

    creates_processes_externally = True

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def local_rank(self) -> int:
        """Return the process's number on its node."""
        return self.place.local

    def node_rank(self) -> int:
        """Return the node's number."""
        return self.place.node


def resume(trainer: Any, learner: Any, judge: Any, folder: Path, batches: Any, validation: Any) -> None:
    """Train from the start, or from the newest whole checkpoint; one that is at its end already is not trained on."""
    found = ranks.told(checkpoints.newest(folder) if ranks.first() else None)
    if found is None:
        trainer.fit(learner, batches, validation)
        return
    checkpoint = checkpoints.Durable().load_checkpoint(found)
    judge.load_state_dict(checkpoint["callbacks"][judge.state_key])
    learner.health.load_state_dict(checkpoint["callbacks"][learner.health.state_key])
    print(f"going on after {judge.before:.0f} s of training, from {found.stem.replace('-', ' ')}", flush=True)
    if not judge.finished:
        # Lightning does so itself, but not for a checkpoint of an epoch's end
        batches.load_state_dict(checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"][0])
        trainer.fit(learner, batches, validation, ckpt_path=str(found), weights_only=True)
