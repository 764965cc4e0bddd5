"""Score a classifier: one function for torch, ONNX, every engine and the live server."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tasks.problems.classification import loss

METRIC = loss.METRIC

Predict = Callable[[Any], Any]


def score(predict: Predict, batches: Iterable[tuple[Any, Any]], classes: list[str]) -> tuple[dict[str, Any], Any, Any]:
    """Return `{"n", "correct", "per_class"}`, the predicted labels int64 [n] and their confidences float32 [n].

    `predict` takes x float32 [batch, ...] and gives logits [batch, classes]; accuracy is top-1.
    """
    guesses, confidences, truths = [], [], []
    for x, y in batches:
        logits = np.asarray(predict(x), np.float32)
        guesses.append(logits.argmax(1))
        confidences.append(confidence(logits))
        truths.append(np.asarray(y))
    guess, truth = np.concatenate(guesses), np.concatenate(truths)
    right = guess == truth
    per_class = {
        name: round(float(right[truth == i].mean()), 4) for i, name in enumerate(classes) if (truth == i).any()
    }
    counts = {"n": len(truth), "correct": int(right.sum()), "per_class": per_class}
    return counts, guess, np.concatenate(confidences)


def confidence(logits: Any) -> Any:
    """Return the largest softmax probability of each row, float32 [n]: the score that the server gives its answer."""
    return 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1)
