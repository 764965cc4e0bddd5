"""Training and measuring on an NVIDIA GPU: the stages as they are, on drawn data."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import backends, engines, gpu
from tests import networks, toys
from tests.test_gpu import Record
from tests.test_training import kill, rows, signals, train, weights

__all__ = ["kill", "signals"]  # fixtures

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(gpu.missing() is not None, reason=f"{gpu.missing()}")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.prepared(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def whole(data: Path) -> Iterator[dict[str, Any]]:
    yield train(data, "whole", precision="auto")


def test_auto_trains_in_float16_on_the_gpu(data: Path, whole: dict[str, Any], record_property: Record) -> None:
    record_property("verdict", {name: whole[name] for name in ("value", "seconds", "input_stall", "against_float32")})
    assert whole["device"] == "gpu" and whole["precision_ran"] == "16-mixed" and whole["value"] > 0.9
    assert all(each["agreement"] > 0.98 for each in whole["against_float32"].values())
    head, *lines = (line.split(",") for line in (data / "whole/curves/curves.csv").read_text().splitlines())
    scales = [float(dict(zip(head, line, strict=True))["loss_scale"]) for line in lines]
    assert len(scales) == 2 and all(scale > 1 for scale in scales)


def test_float16_ends_where_float32_does(data: Path, whole: dict[str, Any], record_property: Record) -> None:
    plain = train(data, "plain", precision="32-true")
    record_property("values", {"16-mixed": whole["value"], "32-true": plain["value"]})
    assert plain["precision_ran"] == "32-true" and plain["value"] == pytest.approx(whole["value"], abs=0.03)


@pytest.mark.usefixtures("kill")
def test_a_killed_training_goes_on_on_the_gpu(
    data: Path, whole: dict[str, Any], request: pytest.FixtureRequest, record_property: Record
) -> None:
    request.getfixturevalue("kill")(data, "killed", 25, 60, precision="auto")
    verdict = train(data, "killed", precision="auto")
    record_property("same weights", weights(data, "killed") == weights(data, "whole"))
    record_property("values", {"whole": whole["value"], "killed": verdict["value"]})
    assert verdict["resumes"] == 2 and len(rows(data, "killed")) == len(rows(data, "whole"))
    assert verdict["value"] == pytest.approx(whole["value"], abs=0.03)


def test_what_dropout_draws_on_the_gpu_goes_on_behind_a_checkpoint() -> None:
    import torch

    from tasks.learner import Learner

    knobs = {"pretrained": None, "schedule_epochs": 1}
    learner = Learner(torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(4, 2)), None, knobs, 1)  # type: ignore[arg-type]
    checkpoint: dict[str, Any] = {}
    ones = torch.ones(1000, device="cuda")
    learner.on_save_checkpoint(checkpoint)
    drawn = torch.nn.functional.dropout(ones)
    assert not torch.equal(torch.nn.functional.dropout(ones), drawn)
    learner.on_load_checkpoint(checkpoint)
    assert torch.equal(torch.nn.functional.dropout(ones), drawn)


def test_autocast_on_the_gpu_answers_as_float32_on_the_cpu(
    data: Path, whole: dict[str, Any], record_property: Record
) -> None:
    from tasks import trained
    from tasks.problems.classification.data import arrays

    spec = json.loads((data / "prepare/spec.json").read_text())
    x = np.concatenate([x for x, _ in arrays(data / "prepare", "test", spec, 200)])
    plain = trained.original(data / "whole/out", spec)[1](x)
    mixed = trained.autocast(data / "whole/out", spec)(x)
    agreement = float((plain.argmax(1) == mixed.argmax(1)).mean())
    record_property(
        "agreement", {"n": len(x), "share": agreement, "max_difference": float(np.abs(plain - mixed).max())}
    )
    assert mixed.dtype == np.float32 and agreement >= 0.99


def test_an_engine_that_this_gpu_cannot_run_is_named_not_loaded(tmp_path: Path, record_property: Record) -> None:
    """What `evaluate` and `measure` ask before they load: it has to say just what loading would."""
    module: Any = backends.backend("tensorrt_rtx")
    path = tmp_path / "fp32.rtx"
    facts = module.build(
        networks.convolutional(tmp_path / "fp32.onnx"), path, 8, module.Options(compute_capabilities=[])
    )
    missing = engines.Engine("tensorrt_rtx-fp32", path, {"backend": "tensorrt_rtx", **facts}).missing
    record_property("missing", missing)
    try:
        module.load(path, threads=1)
        loads = True
    except ValueError:
        loads = False
    assert loads is (missing is None)


def test_the_driver_says_what_torch_does_and_forked_children_can_still_use_it(record_property: Record) -> None:
    """Asked first thing in a fresh process, as `measure` does before it forks to weigh an engine."""
    code = (
        "import json\nfrom tasks import footprint, gpu\nasked = gpu.first()\n"
        "def load():\n    import torch\n    return lambda x: torch.ones(x, device='cuda').sum().item()\n"
        "memory = footprint.grown_mb(load, 1000)\n"
        "import torch\nhas = torch.cuda.get_device_properties(0)\n"
        "print(json.dumps([asked, memory, has.name, f'{has.major}.{has.minor}', has.total_memory, torch.version.cuda]))"
    )
    told = subprocess.check_output([sys.executable, "-c", code], text=True)
    asked, memory, name, capability, size, cuda = json.loads(told.splitlines()[-1])
    record_property("driver", asked)
    record_property("grown_mb", memory)
    assert (asked["name"], asked["compute_capability"], asked["memory_bytes"]) == (name, capability, size)
    assert float(asked["driver_cuda"]) >= float(cuda.split(".")[0])
    assert memory is not None and math.isfinite(memory) and memory > 0
