"""train: mixed-precision training on DALI batches, until validation accuracy is surely at the target."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from tasks import atomic, pictures
from tasks.digest import sha256
from tasks.workload import part

Count = Annotated[int, Field(ge=1)]
CODE = Path(__file__).parent


def train(
    workload: str,
    prepare: Path,
    augment: Path,
    out: Path,
    curves: Path,
    metrics: Path,
    *,
    target: Annotated[float, Field(gt=0, lt=1)],
    precision: Literal["16-mixed", "bf16-mixed", "32-true"],
    seed: Annotated[int, Field(ge=0)],
    width: Count,
    batch_size: Count,
    learning_rate: Annotated[float, Field(gt=0)],
    weight_decay: Annotated[float, Field(ge=0)],
    label_smoothing: Annotated[float, Field(ge=0, lt=1)],
    schedule_epochs: Count,
    max_epochs: Count,
) -> None:
    """Leave the best weights by validation and `train.json` in `out`, curves (CSV, PNG), and the verdict in `metrics`.

    Training stops when the lower end of the 95 % Wilson interval of validation accuracy reaches `target`. The learning
    rate's cycle spans `schedule_epochs`, then rests at its floor until `max_epochs`; a target not reached is a recorded
    verdict, not an error. `precision` is asked of Lightning; what ran is recorded beside it.
    """
    knobs = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "width": width,
        "batch_size": batch_size,
        "schedule_epochs": schedule_epochs,
        "max_epochs": max_epochs,
        "target": target,
        "precision": precision,
        "seed": seed,
    }
    mark = fingerprint(knobs, workload, prepare, augment)
    folder = workplace(out, mark)
    verdict = fit(workload, prepare, augment, folder, knobs)
    # what rebuilds the network, and nothing that merely varies: equal weights leave all later stages fresh
    atomic.write_json(folder / "train.json", {"width": width})
    with atomic.folder(curves) as drawn:
        for name in ("curves.csv", "curves.png"):
            (folder / name).rename(drawn / name)
    shutil.rmtree(out, ignore_errors=True)
    folder.rename(out)
    shutil.rmtree(out.with_name(f"{out.name}.partial"))
    atomic.write_json(metrics, {**verdict, "fingerprint": mark})
    print(f"{'target reached' if verdict['reached'] else 'target not reached'}: validation {verdict['value']:.4f}")


def fingerprint(knobs: dict[str, Any], workload: str, prepare: Path, augment: Path) -> str:
    """Hash everything that shapes the weights: knobs, data and code."""
    digest = hashlib.sha256(json.dumps(knobs, sort_keys=True).encode())
    for path in [*sorted(prepare.glob("*.tar")), prepare / "spec.json", augment / "augment.json", *code(workload)]:
        digest.update(path.name.encode() + sha256(path).encode())
    return digest.hexdigest()[:16]


def code(workload: str) -> list[Path]:
    """Return the files that shape the weights, as dvc.yaml lists them."""
    modality, problem = CODE / "workloads" / workload.split("/")[0], CODE / "workloads" / workload
    return [
        *(CODE / name for name in ("train.py", "learner.py", "interval.py", "shards.py", "digest.py")),
        *(modality / name for name in ("preprocess.py", "augment.py")),
        *(problem / name for name in ("data.py", "network.py")),
    ]


def workplace(out: Path, mark: str) -> Path:
    """Return an empty folder beside `out` for this very training: no DVC output, so a rerun deletes nothing of it."""
    folder = out.with_name(f"{out.name}.partial") / mark
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def fit(workload: str, prepare: Path, augment: Path, folder: Path, knobs: dict[str, Any]) -> dict[str, Any]:
    """Train; leave weights and curves in `folder` and return the verdict."""
    import pytorch_lightning as pl
    import torch

    from tasks.learner import Learner, StopAtTarget

    spec = json.loads((prepare / "spec.json").read_text())
    augmentation = json.loads((augment / "augment.json").read_text())
    data, problem = part(workload, "data"), part(workload, "network")
    device = "gpu" if torch.cuda.is_available() else "cpu"
    pl.seed_everything(knobs["seed"], workers=True)
    batches = data.loader(prepare, "train", spec, knobs["batch_size"], augmentation, knobs["seed"], device)
    validation = data.loader(prepare, "validation", spec, 500, device=device)
    network = problem.build(spec, knobs["width"]).to(memory_format=torch.channels_last)
    learner = Learner(network, problem, knobs, cycle_steps=knobs["schedule_epochs"] * len(batches))
    judge = StopAtTarget(folder, knobs["target"])
    trainer = pl.Trainer(
        precision=knobs["precision"],
        max_epochs=knobs["max_epochs"],
        accelerator="auto",
        devices=1,
        callbacks=[judge],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,  # DALI ignores a reset in mid-epoch: a check would shorten epoch 1's validation
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    trainer.fit(learner, batches, validation)
    pictures.curves(folder / "curves.png", judge.rows, knobs["target"], problem.METRIC)
    return {
        "target": knobs["target"],
        "reached": judge.seconds_to_target is not None,
        "metric": problem.METRIC,
        "value": judge.best["validation"],
        "low": judge.best["low"],
        "high": judge.best["high"],
        "n": learner.validation["n"],
        "epochs": len(judge.rows),
        "seconds_to_target": judge.seconds_to_target,
        "seconds": judge.rows[-1]["seconds"],
        "samples_per_epoch": judge.rows[-1]["samples"],
        "parameters": sum(p.numel() for p in network.parameters()),
        "precision_asked": knobs["precision"],
        "precision_ran": trainer.precision,
        "device": device,
        "seed": knobs["seed"],
    }
