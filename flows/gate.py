"""The gate before a deploy: what may go live, by the facts that the stages left."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from flows import serving
from flows.refusal import Refused
from tasks import backends, passport, target
from tasks.digest import joint
from tasks.lint import lint
from tasks.package import VERSION, digest, parts
from tasks.params import PARAMS, block, checked, read


class Knobs(BaseModel):
    """The deploy section of params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    max_score_difference: Annotated[float, Field(ge=0, le=1)]
    max_champion_drop: Annotated[float, Field(ge=0, le=1)]
    max_p99_ms: Annotated[float, Field(gt=0, le=1e6)]
    grace_s: Annotated[float, Field(ge=0, le=86_400)]


def gate(pipeline: str) -> dict[str, Any]:
    """Return package.json of a package that may go live; `Refused` gives every reason why it may not."""
    trained = read_json(Path("metrics", "train", f"{pipeline}.json"))
    facts = read_json(package(pipeline) / "package.json")
    reasons = []
    if not trained["reached"]:
        reasons.append(f"train: the target of {trained['target']} was not reached on {trained['n']} validation images")
    if facts["engine"] is None:
        reasons += [f"select: {reason}" for reason in facts["reasons"]]
    if reasons:
        raise Refused(reasons)
    if found := lint(package(pipeline) / "repository"):
        raise Refused([f"lint: {each}" for each in found])
    if digest(package(pipeline) / "repository") != facts["sha256"]:
        raise ValueError(f"{package(pipeline)}: not the bytes that package.json names; run the package stage again")
    admit(pipeline, facts["engine"])
    return facts


def admit(pipeline: str, engine: str) -> None:
    """Raise `Refused` where the packaged engine's passport does not let it into this server, or names another input."""
    preprocess, inference = (package(pipeline) / "repository" / name / VERSION for name in parts(pipeline))
    file = inference / f"engine{backends.backend(engine.split('-')[0]).SUFFIX}"
    verdict = judged(file)
    reasons = [f"check: {reason}" for reason in verdict.reasons]
    if verdict.answer == "rebuild":
        reasons.append(f"check: run {verdict.command}")
    if verdict.answer == "load":
        facts = passport.read(file)
        there = joint(preprocess / "preprocess.py", preprocess / "spec.json")
        if facts["preprocessing_sha256"] != there:
            reasons = ["check: the package preprocesses otherwise than the engine was calibrated and judged with"]
    if reasons:
        raise Refused(reasons)


def judged(engine: Path) -> passport.Verdict:
    """Ask an engine's passport about this machine and the server's libraries."""
    return passport.check(engine, target.target() | {"versions": target.versions() | serving.versions()})


def knobs(pipeline: str, params: dict[str, Any] | None = None) -> Knobs:
    """Return the deploy section of a pipeline, of params.yaml by default; `ValueError` names the knob that is wrong."""
    given = block(pipeline, params or read()).get("deploy", {})
    found: Knobs = checked(Knobs, given, f"{PARAMS}: pipelines.{pipeline}.deploy")
    return found


def package(pipeline: str) -> Path:
    """Return where the package stage leaves a pipeline's package."""
    return Path("models", "package", pipeline)


def classes(pipeline: str) -> list[str]:
    """Return the class names of the packaged pipeline."""
    return list(read_json(package(pipeline) / "repository" / pipeline / VERSION / "spec.json")["classes"])


def read_json(path: Path) -> dict[str, Any]:
    """Read a fact that a stage left; `ValueError` where it did not run."""
    if not path.exists():
        raise ValueError(f"{path}: not there; run the pipeline first")
    return dict(json.loads(path.read_text()))
