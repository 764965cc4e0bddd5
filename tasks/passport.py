"""The passport beside every engine: what it is, what it was made of, where it may run; and the check against it."""

import importlib.metadata
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tasks import atomic, backends, target
from tasks.digest import sha256

SUFFIX = ".passport.json"
# Without these a passport is not whole.
NEEDED: dict[str, type] = dict.fromkeys(("engine", "pipeline", "backend", "precision", "device", "sha256"), str)
NEEDED |= {"runs_on": str, "onnx": dict, "versions": dict, "flags": dict, "built": dict}


@dataclass(frozen=True)
class Verdict:
    """Whether a machine can load an engine; `command` is what helps where it can't."""

    answer: Literal["load", "rebuild", "refuse"]
    reasons: list[str] = field(default_factory=list)
    command: str = ""


def beside(engine: Path) -> Path:
    """Return where an engine's passport lies: `int8.onnx` -> `int8.onnx.passport.json`."""
    return engine.with_name(engine.name + SUFFIX)


def issue(engine: Path, names: dict[str, str], source: Path, origin: dict[str, Any], built: dict[str, Any]) -> None:
    """Write the passport of an engine that was just built from the ONNX file `source`.

    `names` are its pipeline, backend and precision, `origin` is quantize.json, `built` what the backend says of its
    build, with the seconds that it took.
    """
    module = backends.backend(names["backend"])
    distribution = module.DISTRIBUTION
    facts: dict[str, Any] = {
        "engine": f"{names['backend']}-{names['precision']}",
        **names,
        "device": module.DEVICE,
        "requires": f"{distribution}=={importlib.metadata.version(distribution)}",
        "file": engine.name,
        "sha256": sha256(engine),
        "size_bytes": engine.stat().st_size,
        "onnx": {"file": source.name, "sha256": sha256(source)},
        "calibration": calibration(origin) if names["precision"] == "int8" else None,
        "preprocessing_sha256": origin["preprocessing_sha256"],
        "tensors": tensors(source),
        **{name: built[name] for name in ("batch", "versions", "flags", "runs_on")},
        **{name: built[name] for name in ("layers", "gpu") if name in built},
        "built": {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(built["seconds"], 2),
            "on": target.target(),
        },
    }
    atomic.write_json(beside(engine), facts)


def calibration(origin: dict[str, Any]) -> dict[str, Any]:
    """Return which samples the INT8 ranges come from."""
    return {name: origin["calibration"][name] for name in ("samples", "sha256")}


def tensors(source: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the inputs and outputs of an ONNX file: name, type, shape."""
    import onnx

    graph = onnx.load(source).graph
    weights = {tensor.name for tensor in graph.initializer}
    found = {}
    for side, values in (("inputs", graph.input), ("outputs", graph.output)):
        found[side] = [
            {
                "name": value.name,
                "type": onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower(),
                "shape": [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
            }
            for value in values
            if value.name not in weights
        ]
    return found


def read(engine: Path) -> dict[str, Any]:
    """Return an engine's passport; `ValueError` where there is none, or no whole one."""
    path = beside(engine)
    if not path.exists():
        raise ValueError(f"{engine}: no passport beside it ({path.name}); only engines of the build stage have one")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or not all(isinstance(facts.get(name), kind) for name, kind in NEEDED.items()):
        raise ValueError(f"{path}: no whole passport; run the build stage again")
    if facts["backend"] not in backends.names():
        there = ", ".join(backends.names())
        raise ValueError(f"{path}: no backend {facts['backend']!r} here; there are: {there}; bring its file here")
    return facts


def check(engine: Path, on: dict[str, Any]) -> Verdict:
    """Say whether a machine (see `tasks.target`) can load an engine, from its header and passport alone.

    An INT8 engine for CPUs whose accuracy was measured with another INT8 arithmetic has to be judged anew there.
    """
    if not engine.exists():
        raise ValueError(f"{engine}: no such file")
    try:
        facts = read(engine)
    except ValueError as error:
        return Verdict("refuse", [str(error)])
    if sha256(engine) != facts["sha256"]:
        reason = f"its bytes are not those of its passport ({facts['sha256'][:12]}): changed or damaged after the build"
        return Verdict("refuse", [f"{reason}; copy both files again, or run the build stage again"])
    build = f"build@{facts['pipeline']}-{facts['backend']}"
    if facts["device"] == "gpu" and on["gpu"] is None:
        return Verdict("refuse", ["the target has no NVIDIA GPU"])
    reasons = backends.backend(facts["backend"]).objections(engine, facts, on)
    if reasons:
        return Verdict("rebuild", reasons, command(build))
    if facts["device"] == "cpu" and facts["precision"] == "int8":
        there, here = target.int8_arithmetic(on), target.int8_arithmetic(facts["built"]["on"])
        if there != here:
            reason = f"judged with {here} INT8 arithmetic, the target's is {there}: its accuracy counts nothing there"
            return Verdict("rebuild", [reason], command(f"evaluate@{facts['pipeline']}"))
    return Verdict("load")


def command(stage: str) -> str:
    """Return the line that runs a stage on the target."""
    return f".venv/bin/dvc repro --force --single-item {stage}"
