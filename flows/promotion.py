"""The promotion gate: the candidate against the live champion, and against the engine alone, on the same test set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows import live, receipt
from flows.gate import classes
from flows.refusal import Refused
from tasks import digest, shards
from tasks.interval import paired, wilson


@dataclass(frozen=True)
class TestSet:
    """The official test set: encoded samples, their classes, and a digest of both."""

    samples: list[bytes]
    truth: list[str]
    sha256: str


def test_set(pipeline: str) -> TestSet:
    """Read the test set that the stages used."""
    folder, names = Path("data", "prepare", pipeline), classes(pipeline)
    samples, labels = zip(*shards.read(folder, "test"), strict=True)
    return TestSet(list(samples), [names[label] for label in labels], digest.joint(*shards.paths(folder, "test")))


def challenge(candidate: list[str], champion: list[str] | None, test: TestSet, max_drop: float) -> dict[str, Any]:
    """Return how the candidate's answers compare with the champion's, sample by sample; `{}` where there is none.

    `Refused` where it is worse by more than `max_drop`.
    """
    if champion is None:
        return {}
    difference = paired(right(candidate, test), right(champion, test))
    if -difference["delta"] > max_drop:
        raise Refused(
            [
                f"deploy: {-difference['delta']:.4f} less accurate than the live champion on the same test set, over "
                f"max_champion_drop {max_drop:g} (95 % interval {difference['delta_low']:+.4f} to "
                f"{difference['delta_high']:+.4f}, {difference['lost']} samples lost, {difference['gained']} gained, "
                f"n={len(test.truth):,})"
            ]
        )
    return {f"champion_{name}": value for name, value in difference.items()}


def champion(client: Any, pipeline: str, test: TestSet) -> list[str] | None:
    """Return what the live version answers on the test set, asked anew where the set is another; None without one."""
    if receipt.read(pipeline) is None:
        return None
    known = receipt.answers(pipeline, test.sha256)
    return known if known is not None else live.Served(client, pipeline).classify_all(test.samples)[0]


def served(pipeline: str, engine: str, answers: list[str], test: TestSet) -> dict[str, Any]:
    """Return the server's row of the accuracy budget: accuracy, interval, n, what changed from the engine."""
    from safetensors.numpy import load_file

    names = classes(pipeline)
    alone = [names[i] for i in load_file(Path("models", "evaluate", f"{pipeline}.safetensors"))[engine]]
    correct = right(answers, test)
    low, high = wilson(int(correct.sum()), len(correct))
    row = {"accuracy": float(correct.mean()), "low": low, "high": high, "n": len(correct)}
    return row | paired(correct, right(alone, test))


def right(answers: list[str], test: TestSet) -> Any:
    """Tell of each sample whether the answer is its class, boolean [n]."""
    return np.array([answer == truth for answer, truth in zip(answers, test.truth, strict=True)])
