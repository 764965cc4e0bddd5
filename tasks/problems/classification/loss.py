"""What training minimises in classification, and what counts as right."""

from torch import Tensor
from torch.nn import functional

METRIC = "accuracy"


def loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy."""
    return functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


def correct(logits: Tensor, labels: Tensor) -> int:
    """Return how many of a batch are right (top-1)."""
    return int((logits.argmax(1) == labels).sum())
