"""train: mixed-precision training on DALI batches, until validation accuracy is surely at the target."""

import hashlib
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from tasks import allocator, atomic, networks, pictures, precision
from tasks.digest import sha256
from tasks.pretrained import Pretrained, start
from tasks.workload import part

Count = Annotated[int, Field(ge=1, le=65_536)]
CODE = Path(__file__).parent
WORKPLACE = ".training"  # beside the output: where a training keeps what it needs to go on
SAMPLE = 256  # validation samples on which mixed precision is compared with float32


def train(
    workload: str,
    prepare: Path,
    augment: Path,
    out: Path,
    curves: Path,
    metrics: Path,
    *,
    target: Annotated[float, Field(gt=0, lt=1)],
    confidence: Annotated[float, Field(ge=0, lt=1)],
    precision: Literal["auto", "16-mixed", "bf16-mixed", "32-true"],
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)],
    network: Annotated[Any, networks.OfNetworks()],
    pretrained: Pretrained | None,
    batch_size: Count,
    learning_rate: Annotated[float, Field(gt=0, le=100)],
    weight_decay: Annotated[float, Field(ge=0, le=1)],
    label_smoothing: Annotated[float, Field(ge=0, lt=1)],
    schedule_epochs: Count,
    max_epochs: Count,
) -> None:
    """Leave the best weights by validation and `train.json` in `out`, curves (CSV, PNG), and the verdict in `metrics`.

    A training that was killed goes on from its last checkpoint where knobs, data and code are the same. `ValueError`
    where the numbers went wrong: step, layer and remedy.

    Training stops when the lower end of validation accuracy's Wilson interval of this `confidence` reaches `target`; of
    confidence 0 it is the accuracy itself. The learning rate's cycle spans `schedule_epochs`, behind the epochs of the
    head alone where the weights are `pretrained`, then rests at its floor until `max_epochs`; a target not reached is a
    recorded verdict, not an error. `precision` is asked of Lightning; what ran is recorded beside it.
    """
    knobs = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "network": network.model_dump(),
        "pretrained": pretrained and pretrained.model_dump(),
        "batch_size": batch_size,
        "schedule_epochs": schedule_epochs,
        "max_epochs": max_epochs,
        "target": target,
        "confidence": confidence,
        "precision": precision,
        "seed": seed,
    }
    mark = fingerprint(knobs, workload, prepare, augment)
    folder = workplace(out, mark)
    allocator.keep_memory()
    verdict, weights = fit(workload, prepare, augment, folder, knobs)
    with atomic.folder(curves) as drawn:
        for name in ("curves.csv", "curves.png"):
            shutil.copyfile(folder / name, drawn / name)
    atomic.write_json(metrics, {**verdict, "seed": seed, "fingerprint": mark})
    with atomic.folder(out) as finished:
        shutil.copyfile(weights, finished / "weights.safetensors")
        # what rebuilds the network, and nothing that merely varies: equal weights leave all later stages fresh
        atomic.write_json(finished / "train.json", {"network": knobs["network"]})
    shutil.rmtree(folder.parent)
    print(f"{'target reached' if verdict['reached'] else 'target not reached'}: validation {verdict['value']:.4f}")


def fingerprint(knobs: dict[str, Any], workload: str, prepare: Path, augment: Path) -> str:
    """Hash everything that shapes the weights: knobs, data and code."""
    digest = hashlib.sha256(json.dumps(knobs, sort_keys=True).encode())
    names = [*sorted(prepare.glob("*.tar")), prepare / "spec.json", augment / "augment.json"]
    for path in [*names, *code(workload, knobs["network"]["name"])]:
        digest.update(path.name.encode() + sha256(path).encode())
    return digest.hexdigest()[:16]


def code(workload: str, network: str) -> list[Path]:
    """Return the files that shape the weights; dvc.yaml lists them, and every other network's."""
    modality, problem = workload.split("/")
    own = ("train", "learner", "pretrained", "judge", "health", "stall", "checkpoints", "interval", "shards", "digest")
    machine = ("allocator", "precision", "target", "gpu")
    names = [
        *own,
        *machine,
        "networks/layers",
        f"networks/{network}",
        f"modalities/{modality}/preprocess",
        f"modalities/{modality}/augment",
    ]
    names += [f"problems/{problem}/data", f"problems/{problem}/loss"]
    return [CODE / f"{name}.py" for name in names]


def workplace(out: Path, mark: str) -> Path:
    """Return the folder of this very training beside `out`; those of other knobs, data or code are removed.

    It is no DVC output, so a rerun finds the checkpoints of a training that was killed.
    """
    place = out.with_name(f"{out.name}{WORKPLACE}")
    for other in place.glob("*"):
        if other.name != mark:
            shutil.rmtree(other)
    (place / mark).mkdir(parents=True, exist_ok=True)
    os.utime(place / mark)  # who follows a training finds it by its time
    return place / mark


def fit(
    workload: str, prepare: Path, augment: Path, folder: Path, knobs: dict[str, Any]
) -> tuple[dict[str, Any], Path]:
    """Train, or go on from the newest checkpoint in `folder`; return the verdict and where the best weights lie."""
    import pytorch_lightning as pl
    import torch

    from tasks import checkpoints
    from tasks.health import Health
    from tasks.judge import Judge
    from tasks.learner import Learner
    from tasks.stall import Stall

    spec = json.loads((prepare / "spec.json").read_text())
    augmentation = json.loads((augment / "augment.json").read_text())
    data, problem = part(workload, "data"), part(workload, "loss")
    device = "gpu" if torch.cuda.is_available() else "cpu"
    pl.seed_everything(knobs["seed"], workers=True)
    batches = data.loader(prepare, "train", spec, knobs["batch_size"], augmentation, knobs["seed"], device)
    validation = data.loader(prepare, "validation", spec, 500, device=device)
    network = networks.build(spec, knobs["network"])
    if knobs["pretrained"]:
        start(network, knobs["network"]["name"], Pretrained(**knobs["pretrained"]))
    learner = Learner(network.to(memory_format=torch.channels_last), problem, knobs, steps_per_epoch=len(batches))
    (sample, _), *_ = itertools.islice(data.arrays(prepare, "validation", spec, SAMPLE), 1)
    learner.health = health = Health(torch.from_numpy(sample))
    stall = Stall(batches)
    judge = Judge(folder, knobs["target"], knobs["confidence"], knobs["max_epochs"], (health, stall))
    trainer = pl.Trainer(
        precision=precision.asked(knobs["precision"], device),
        max_epochs=knobs["max_epochs"],
        accelerator="auto",
        devices=1,
        callbacks=[health, stall, judge],
        plugins=[checkpoints.Durable()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,  # DALI ignores a reset in mid-epoch: a check would shorten epoch 1's validation
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    resume(trainer, learner, judge, folder, batches, validation)
    pictures.curves(folder / "curves.png", judge.rows, knobs["target"], problem.METRIC)
    facts = {"n": spec["counts"]["validation"], "parameters": sum(p.numel() for p in network.parameters())}
    ran = {"precision_ran": trainer.precision, "against_float32": health.compared, "device": device}
    return judge.verdict() | {
        "metric": problem.METRIC,
        **facts,
        "precision_asked": knobs["precision"],
    } | ran, judge.weights


def resume(trainer: Any, learner: Any, judge: Any, folder: Path, batches: Any, validation: Any) -> None:
    """Train from the start, or from the newest whole checkpoint; one that is at its end already is not trained on."""
    import torch

    from tasks import checkpoints

    found = checkpoints.newest(folder)
    if found is None:
        trainer.fit(learner, batches, validation)
        return
    checkpoint = torch.load(found, map_location="cpu", weights_only=True)
    judge.load_state_dict(checkpoint["callbacks"][judge.state_key])
    learner.health.load_state_dict(checkpoint["callbacks"][learner.health.state_key])
    print(f"going on after {judge.before:.0f} s of training, from {found.stem.replace('-', ' ')}", flush=True)
    if not judge.finished:
        # Lightning does so itself, but not for a checkpoint of an epoch's end
        batches.load_state_dict(checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"][0])
        trainer.fit(learner, batches, validation, ckpt_path=str(found), weights_only=True)
