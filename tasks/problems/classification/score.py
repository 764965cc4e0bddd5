"""Score a classifier: one function for torch, ONNX, every engine and the live server."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tasks.problems.classification import loss

METRIC = loss.METRIC

Predict = Callable[[Any], Any]


def score(predict: Predict, batches: Iterable[tuple[Any, Any]], classes: list[str]) -> tuple[dict[str, Any], Any]:
    """Return `{"n", "correct", "per_class"}` and the predicted labels int64 [n].

    `predict` takes x float32 [batch, ...] and gives logits or scores [batch, classes]; accuracy is top-1.
    """
    guesses, truths = [], []
    for x, y in batches:
        guesses.append(np.asarray(predict(x)).argmax(1))
        truths.append(np.asarray(y))
    guess, truth = np.concatenate(guesses), np.concatenate(truths)
    right = guess == truth
    per_class = {
        name: round(float(right[truth == i].mean()), 4) for i, name in enumerate(classes) if (truth == i).any()
    }
    return {"n": len(truth), "correct": int(right.sum()), "per_class": per_class}, guess
