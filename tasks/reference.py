"""reference: what inputs and answers are like on held-out training samples, for the monitor to tell drift by."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tasks import atomic, engines
from tasks.workload import part

SPLIT = "calibration"  # of the training side, but not trained on: its confidences are those of new samples
BATCH, THREADS = 64, 2


def reference(workload: str, prepare: Path, build: Path, select: Path, out: Path) -> None:
    """Leave in `out` the chosen engine's labels and confidences, and mean and deviation of each input channel.

    `{"engine", "n", "labels": {class: count}, "confidence": [n], "input": {"mean": [channel][n], "std": ...}}`, inputs
    as prepared: what a served model notes of its answers. Where no engine was chosen `{"engine": null}`.
    """
    chosen = json.loads(select.read_text())["chosen"]
    if chosen is None:
        atomic.write_json(out, {"engine": None})
        print("no engine, so no reference")
        return
    spec = json.loads((prepare / "spec.json").read_text())
    engine = next(each for each in engines.read(build, [chosen.split("-")[0]]) if each.name == chosen)
    batches = list(part(workload, "data").arrays(prepare, SPLIT, spec, BATCH))
    _, guesses, confidences = part(workload, "score").score(engine.load(THREADS), batches, spec["classes"])
    counts = np.bincount(guesses, minlength=len(spec["classes"]))
    seen = [moments(x) for x, _ in batches]
    content = {
        "engine": chosen,
        "n": len(guesses),
        "labels": dict(zip(spec["classes"], counts.tolist(), strict=True)),
        "confidence": rounded(confidences),
        "input": {name: [rounded(row) for row in np.concatenate([each[name] for each in seen]).T] for name in seen[0]},
    }
    atomic.write_json(out, content)
    print(f"{chosen} on {len(guesses):,} held-out training samples")


def moments(x: Any) -> dict[str, Any]:
    """Return mean and standard deviation, [n, channels], of each channel of samples, or of a vector as a whole."""
    channels = x.reshape(len(x), x.shape[1] if x.ndim > 2 else 1, -1).astype(np.float64)
    return {"mean": channels.mean(2), "std": channels.std(2)}


def rounded(values: Any) -> list[float]:
    """Return numbers with the digits that the log of answers has."""
    return [float(f"{value:.7g}") for value in values.tolist()]
