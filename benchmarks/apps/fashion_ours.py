"""Fashion-MNIST by the train stage itself, in a process of its own, from what prepare and augment left.

    python fashion_ours.py CHECKOUT SEED PRECISION

Prints the seconds from the first step to the validation that reached the target.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import yaml

from tasks.command import knobs
from tasks.train import train


def main(checkout: Path, seed: int, precision: str) -> None:
    """Train into a temporary folder."""
    os.chdir(checkout)
    block = yaml.safe_load(Path("params.yaml").read_text())["pipelines"]["fashion"]
    block["train"] |= {"seed": seed, "precision": precision}
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        data = Path("data/prepare/fashion"), Path("data/augment/fashion")
        places = out / "out", out / "curves", out / "metrics.json"
        train("image/classification", *data, *places, **knobs(train, "fashion", block))
        verdict = json.loads((out / "metrics.json").read_text())
    print(f"seconds {verdict['seconds_to_target']} reached {verdict['reached']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
