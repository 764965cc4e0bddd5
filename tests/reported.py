"""What the report stage is fed, as toys with hostile names; and a page taken apart again."""

import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from tasks import rejects, shards
from tasks.rejects import Rejected
from tests.finished import write

CLASSES = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "$\\frac{1} & co", "猫 </style><h1>"]
COUNTS = {"train": 12, "validation": 8, "calibration": 4, "test": 40}
ENGINE, REFERENCE = "onnxruntime-int8", "torch-fp32"
REJECTED = [
    Rejected("incoming/<b>bold</b>.png", "it begins with b'<svg onload=alert(3)>'", b""),
    Rejected("incoming/https://elsewhere/x.png", "same content as t10k/00000", b""),
]
CURVES = "epoch,step,seconds,validation,low,high,train_loss,validation_loss,loss_scale\n"
CURVES += "1,10,1.5,0.7,0.6,0.8,1.5,1.2,\n2,20,2.5,0.9,0.82,0.95,1.0,0.6,\n"


def png(level: int) -> bytes:
    """Return a grey picture of one level."""
    buffer = io.BytesIO()
    Image.new("L", (6, 6), level).save(buffer, "PNG")
    return buffer.getvalue()


def labels(count: int) -> Any:
    """Return the classes of a split, in turn."""
    return np.arange(count) % len(CLASSES)


def row(engine: str, verdict: str, **facts: Any) -> dict[str, Any]:
    """Return a row of select's table."""
    measured = {"accuracy": 0.9, "low": 0.77, "high": 0.96, "n": 40, "agreement": 1.0, "p50_ms": 1.0, "p99_ms": 2.0}
    measured |= {"calls": 300, "images_per_s": 1234.5, "batch": 32, "memory_mb": None, "size_bytes": 123_456}
    return {"engine": engine, "verdict": verdict} | (facts or measured)


def selection(chosen: str | None) -> dict[str, Any]:
    """Return what select leaves."""
    step = {"from": None, "spent_by": "train", "accuracy": 0.9, "low": 0.77, "high": 0.96, "n": 40}
    step |= {"delta": 0.0, "delta_low": -0.02, "delta_high": 0.02, "gained": 0, "lost": 0}
    reason = "accuracy drop 0.0060 over max_accuracy_drop 0.005 (n=40)"
    rows = [
        row(REFERENCE, "reference"),
        row(ENGINE, "chosen" if chosen else reason),
        row("tensorrt_rtx-int8", "built, not measured here: no <NVIDIA> driver", not_measured="", size_bytes=9),
    ]
    return {
        "chosen": chosen,
        "why": "",
        "objective": "latency",
        "bounds": {"max_accuracy_drop": 0.005},
        "rows": rows,
        "budget": [
            {"step": REFERENCE, **step},
            {"step": ENGINE, **step, "from": REFERENCE, "spent_by": "build"},
        ],
    }


def answers(root: Path) -> None:
    """Leave answers of which four are wrong, rows 3, 17, 21 and 30, the second the surest."""
    truth = labels(COUNTS["test"])
    given = truth.copy()
    for wrong in (3, 17, 21, 30):
        given[wrong] = (truth[wrong] + 1) % len(CLASSES)
    confidence = np.linspace(0.3, 0.8, len(truth), dtype=np.float32)
    confidence[17] = 0.99
    tensors = {"truth": truth.astype(np.uint16)}
    for engine in (ENGINE, REFERENCE):
        tensors |= {engine: given.astype(np.uint16), f"confidence/{engine}": confidence}
    save_file(tensors, root / "answers.safetensors")


def inputs(root: Path, chosen: str | None = ENGINE) -> dict[str, Any]:
    """Leave what the stages before report leave, and return report's arguments."""
    write(root / "train_metrics.json", verdict())
    write(root / "curves/curves.csv", CURVES)
    write(root / "augment/augment.json", {"flip": {"probability": 0.5}, "shift": {"range": [-2, 2]}, "loudness": 0.1})
    for strip in ("strip", "strip_flip"):
        write(root / f"augment/{strip}.png", png(9))
    write(root / "select.json", selection(chosen))
    write(root / "measure.json", {"machine": {"cpu": "a <b>toy</b> CPU", "threads": 1}})
    spec = {"workload": "image/classification", "classes": CLASSES, "image_size": 6, "channels": 1, "counts": COUNTS}
    write(root / "prepare/spec.json", spec)
    for split, count in COUNTS.items():
        samples = [(png(i) if i != 21 else b"no picture", int(label)) for i, label in enumerate(labels(count))]
        shards.write(root / "prepare", split, samples, 15)
    reasons = [{"name": each.name, "reason": each.reason} for each in REJECTED]
    accounts = {"seen": 66, "used": COUNTS, "rejected": len(REJECTED), "reasons": reasons}
    write(root / "prepare/report.json", accounts)
    rejects.page(root / "prepare/report.html", "66 files seen", REJECTED, lambda data: None)
    answers(root)
    paths = {name: root / name for name in ("prepare", "augment", "curves")}
    paths |= {name: root / f"{name}.json" for name in ("train_metrics", "measure", "select")}
    return {"pipeline": "toy <i>", "answers": root / "answers.safetensors", "out": root / "new/toy.html"} | paths


def verdict() -> dict[str, Any]:
    """Return what train says of itself."""
    return {"target": 0.8, "confidence": 0.95, "reached": True, "value": 0.9, "low": 0.82, "high": 0.95, "n": 100} | {
        "metric": "accuracy",
        "epochs": 2,
    }


class Page(HTMLParser):
    """A page taken apart: elements with their attributes, all text, and the cells of each table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.elements, self.words = text, list[tuple[str, dict[str, str | None]]](), list[str]()
        self.tables: list[list[list[str]]] = []
        self.inside, self.in_cell = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.inside, self.in_cell = "", self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside != "style":
            self.words.append(data)
        if self.in_cell:
            self.tables[-1][-1][-1] += data

    def said(self) -> str:
        """Return all text for people."""
        return "".join(self.words)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of every element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def page(out: Path) -> Page:
    """Take a page apart."""
    return Page(out.read_text())


def facts(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text())
