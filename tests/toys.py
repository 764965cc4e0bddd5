"""Toy data for tests that call stages as functions: prepared once per session."""

from pathlib import Path
from typing import Any

from tasks.augment import augment
from tasks.modalities.image.augment import Augmentation
from tasks.modalities.image.source import Input
from tasks.networks import small
from tasks.prepare import prepare
from tests import miniature

WORKLOAD = "image/classification"
INPUT = Input(image_size=28, channels=1, normalisation="measured")
PREPARE: dict[str, Any] = {
    "classes": miniature.CLASSES,
    "input": INPUT,
    "test": "given",
    "validation": 300,
    "calibration": 64,
    "golden": 8,
    "shard_size": 500,
}
TRAIN: dict[str, Any] = {
    "target": 0.99,  # out of reach: the interval of 300 right answers of 300 begins below
    "precision": "16-mixed",
    "seed": 1,
    "network": small.Knobs(name="small", width=16),
    "pretrained": None,
    "confidence": 0.95,
    "batch_size": 32,
    "learning_rate": 0.1,
    "weight_decay": 0.0005,
    "label_smoothing": 0.1,
    "schedule_epochs": 2,
    "max_epochs": 2,
    "devices": 1,
    "num_nodes": 1,
}


def prepared(root: Path) -> Path:
    """Leave `prepare` and `augment` of the drawn data set below a folder."""
    miniature.dataset(root / "raw")
    (root / "incoming").mkdir()
    prepare(WORKLOAD, root / "raw", root / "incoming", root / "prepare", **PREPARE)
    changes = {"rotation": {"range": [-5, 5], "probability": 0.5}, "flip": {"probability": 0.5}}
    augment(WORKLOAD, root / "prepare", root / "augment", augmentation=Augmentation.model_validate(changes))
    return root
