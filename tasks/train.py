"""train: mixed-precision training on DALI batches, until validation accuracy is surely at the target."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from tasks import atomic, networks, ranks, siblings
from tasks.digest import sha256
from tasks.pretrained import Pretrained

Count = Annotated[int, Field(ge=1, le=65_536)]
CODE = Path(__file__).parent
WORKPLACE = ".training"  # beside the output: where a training keeps what it needs to go on


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
    devices: Count,
    num_nodes: Count,
) -> None:
    """Leave the best weights by validation and `train.json` in `out`, curves (CSV, PNG), and the verdict in `metrics`.

    A training that was killed goes on from its last checkpoint where knobs, data and code are the same. `ValueError`
    where the numbers went wrong: step, layer and remedy.

    Training stops when the lower end of validation accuracy's Wilson interval of this `confidence` reaches `target`; of
    confidence 0 it is the accuracy itself. The learning rate's cycle spans `schedule_epochs`, behind the epochs of the
    head alone where the weights are `pretrained`, then rests at its floor until `max_epochs`; a target not reached is a
    recorded verdict, not an error. `precision` is asked of Lightning; what ran is recorded beside it.

    `devices` processes of this machine share each batch, one to a GPU, or to some of the cores where there is none. Of
    several nodes each runs this stage with the same knobs, data and code, and NODE_RANK, MASTER_ADDR and MASTER_PORT in
    its environment; node 0 alone, which says that address, leaves anything. They trust each other's network.
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
        "devices": devices,
        "num_nodes": num_nodes,
    }
    place = ranks.here(devices, num_nodes, batch_size)
    mark = fingerprint(knobs, workload, prepare, augment)
    folder = workplace(out, mark) if place.rank == 0 else out
    work = (workload, prepare, augment, folder, knobs, mark)
    with siblings.together(place, trained, work):
        found = trained(place, *work)
    if found:
        leave(*found, folder, out, curves, metrics, knobs, mark)
    else:
        print(f"trained as node {place.node} of {num_nodes}; what came of it is on node 0")


def trained(place: ranks.Place, *work: Any) -> tuple[dict[str, Any], Path] | None:
    """Train at a process's place; light to import, as every process starts with it."""
    from tasks.fit import fit

    return fit(place, *work)


def leave(
    verdict: dict[str, Any],
    weights: Path,
    folder: Path,
    out: Path,
    curves: Path,
    metrics: Path,
    knobs: dict[str, Any],
    mark: str,
) -> None:
    """Put what a training came to where it belongs, and remove where it worked."""
    with atomic.folder(curves) as drawn:
        for name in ("curves.csv", "curves.png"):
            shutil.copyfile(folder / name, drawn / name)
    atomic.write_json(metrics, {**verdict, "seed": knobs["seed"], "fingerprint": mark})
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
    own = (
        "train",
        "learner",
        "pretrained",
        "judge",
        "health",
        "stall",
        "checkpoints",
        "interval",
        "shards",
        "digest",
        "fit",
        "ranks",
        "siblings",
    )
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
