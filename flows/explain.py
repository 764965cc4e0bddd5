"""explain: where a registered version comes from, from its data to its deployment, on one screen."""

import json
import os
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import provenance, receipt, terminal
from tasks import settings
from tasks.champion import PACKAGE
from tasks.mirror import DEFAULTS, local_database, without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

REPORTS = ("prepare/spec", "train_metrics", "export", "quantize", "select", "package")
ROOM = 13  # columns of a line's name


def explain(model: str, as_json: bool) -> int:
    """Print all that led to a version of a pipeline's model, `fashion@champion` or `fashion/3`; return 0.

    `ValueError` where MLflow does not answer or knows no such version.
    """
    facts = facts_of(model)
    if as_json:
        terminal.say(json.dumps(facts, indent=2, ensure_ascii=False))
        return 0
    for name, text in lines(facts):
        indent = " " * ROOM
        wrapped = textwrap.wrap(text, terminal.width() - ROOM, break_on_hyphens=False) or [""]
        terminal.say(f"{name:<{ROOM}}{wrapped[0]}" + "".join(f"\n{indent}{line}" for line in wrapped[1:]))
    return 0


def facts_of(model: str) -> dict[str, Any]:
    """Gather what MLflow recorded of a version's run, the chosen engine's passport, and what is live now."""
    uri = settings.tracking_uri()
    database = local_database(uri)
    if database and not database.exists():
        raise ValueError(f"nothing is recorded yet: no {without_credentials(uri)}; run the pipeline first")
    settings.quiet()
    for name, value in (DEFAULTS | provenance.IMPATIENT).items():
        os.environ.setdefault(name, value)
    from mlflow.exceptions import MlflowException

    try:
        with provenance.opened(uri, database) as client:
            version = version_named(client, model)
            run = client.get_run(version.run_id)
            with tempfile.TemporaryDirectory() as aside:
                reports = {name: report(client, run.info.run_id, name, Path(aside)) for name in REPORTS}
                backend = str(reports["package"]["engine"]).split("-")[0]
                passports = report(client, run.info.run_id, f"build/{backend}", Path(aside))
    except MlflowException as error:
        raise ValueError(f"MLflow, {without_credentials(uri)}: {str(error).splitlines()[0]}") from None
    live = receipt.read(version.name)
    return {
        "model": version.name,
        "version": str(version.version),
        "aliases": sorted(version.aliases),
        "run": {"name": run.info.run_name, "id": run.info.run_id, "recorded_ms": run.info.end_time},
        "tags": {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")},
        "params": dict(run.data.params),
        "served_accuracy": run.data.metrics.get("served_accuracy"),
        "reports": reports,
        "passport": passports[reports["package"]["engine"]],
        "live": live if live and live["sha256"] == run.data.tags[PACKAGE] else None,
    }


def version_named(client: "MlflowClient", model: str) -> Any:
    """Return the version behind `name@alias` or `name/number`; `ValueError` says what there is."""
    name, at, alias = model.partition("@")
    if not at:
        name, _, alias = model.partition("/")
    found = client.search_model_versions(f"name = '{name}'")
    aliases: dict[str, Any] = next((m.aliases for m in client.search_registered_models(f"name = '{name}'")), {})
    number = str(aliases.get(alias, "")) if at else alias
    version = next((each for each in found if str(each.version) == number), None)
    if version is None:
        there = [f"{name}@{each}" for each in sorted(aliases)] + [f"{name}/{each.version}" for each in found[:5]]
        raise ValueError(f"no version '{model}' in MLflow; there are: {', '.join(there) or 'none of that name'}")
    return client.get_model_version(name, number)


def report(client: "MlflowClient", run_id: str, name: str, aside: Path) -> dict[str, Any]:
    """Read a report that was recorded with a run."""
    path = client.download_artifacts(run_id, f"reports/{name}.json", str(aside))
    return dict(json.loads(Path(path).read_text()))


def lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the screen: name and text of each line, from the data to the deployment."""
    reports, tags, passport = facts["reports"], facts["tags"], facts["passport"]
    train, export = reports["train_metrics"], reports["export"]
    counts = ", ".join(f"{count:,} {split}" for split, count in reports["prepare/spec"]["counts"].items())
    sections = ("train.", "imported.")
    knobs = {name.partition(".")[2]: value for name, value in facts["params"].items() if name.startswith(sections)}
    aliases = "".join(f", {alias}" for alias in facts["aliases"])
    built = passport["built"]
    found = [
        (facts["model"], f"version {facts['version']}{aliases}; run {facts['run']['name']}"),
        ("data", f"{counts} (SHA-256 {tags['data_hash'][:12]})"),
        ("commit", tags["git_commit"]),
        ("knobs", ", ".join(f"{name} {value}" for name, value in knobs.items())),
        ("checkpoint", f"validation {train['value']:.4f} (n={train['n']:,}), fingerprint {train['fingerprint'][:12]}"),
        ("ONNX", f"opset {export['opset']}, {passport['onnx']['file']}, SHA-256 {passport['onnx']['sha256'][:12]}"),
        ("engine", f"{passport['engine']}, {passport['size_bytes'] / 1e6:.2f} MB, SHA-256 {passport['sha256'][:12]}"),
        ("", f"built {built['at']} on {built['on']['cpu']}; runs on {passport['runs_on']}"),
    ]
    if passport["calibration"]:
        audit = passport["calibration"]
        found.append(("calibration", f"{audit['samples']:,} samples, SHA-256 {audit['sha256'][:12]}"))
    rows = [row for row in reports["select"]["rows"] if row["verdict"] != "reference"]
    for title, row in zip(["verdicts", *[""] * len(rows)], rows, strict=False):
        accuracy = f"{row['accuracy']:.4f}, {row['p50_ms']:.3f} ms, " if "accuracy" in row else ""
        found.append((title, f"{row['engine']}: {accuracy}{row['verdict']}"))
    found.append(("package", tags[PACKAGE]))
    live = facts["live"]
    if live is None:
        once = facts["served_accuracy"]
        before = "" if once is None else f"; it was, with a served accuracy of {once:.4f}"
        return [*found, ("deployment", f"not live on this machine's server{before}")]
    served = f"{live['served_accuracy']:.4f} ({live['low']:.4f} to {live['high']:.4f}, n={live['n']:,})"
    return [*found, ("deployment", f"live as version {live['version']} since {live['at']}; served accuracy {served}")]
