"""status: what the next run will do and why, and what DVC, MLflow, Prefect and the server say of the files."""

import json
import textwrap
from collections import Counter
from dataclasses import asdict
from datetime import datetime
from typing import Any

from flows import provenance, staleness, terminal
from flows.graph import preview
from tasks.mirror import without_credentials


def status(pipeline: str, as_json: bool) -> int:
    """Print how every stage of a pipeline stands and what the tools know of its files; change nothing; return 0.

    Only DVC's own lock and its memory of file hashes are touched. `ValueError` where params.yaml is wrong.
    """
    preview(pipeline)
    stages = [asdict(each) for each in standings(pipeline)]
    ran = provenance.last_runs([each["stage"] for each in stages])
    stages = [each | {"ran": (ran or {}).get(each["stage"])} for each in stages]
    facts: dict[str, Any] = {"pipeline": pipeline, "prefect_answers": ran is not None, "stages": stages}
    if not as_json:
        terminal.say("\n".join(stages_page(facts)))  # before MLflow's import, which takes seconds
    facts |= provenance.provenance(pipeline)
    terminal.say(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else "\n".join(tools_page(facts)))
    return 0


def standings(pipeline: str) -> list[staleness.Standing]:
    """Ask DVC how the stages stand; `ValueError` says why it can't tell."""
    from dvc.exceptions import DvcException

    try:
        view = staleness.View(pipeline)
        try:
            return staleness.standings(view.repo, view.stages())
        finally:
            view.close()
    except DvcException as error:
        raise ValueError(f"DVC: {error}") from error


def stages_page(facts: dict[str, Any]) -> list[str]:
    """Return one line a stage and one a reason."""
    lines = [headline(facts), ""]
    if not facts["prefect_answers"]:
        lines[1:1] = wrapped(
            "",
            f"Prefect at {without_credentials(provenance.prefect_api())} does not answer: when stages ran is not known",
        )
    for stage in facts["stages"]:
        ran = f"ran {local(stage['ran'])}" if stage["ran"] else ""
        after = f"after {', '.join(terminal.short(name) for name in stage['after'])}" if stage["after"] else ""
        lines += wrapped(
            f"  {terminal.short(stage['stage']):<19}{stage['state']:<9}", "  ".join(filter(None, (ran, after)))
        )
        for reason in stage["reasons"]:
            lines += wrapped(f"    {reason['kind']:<9}", "  ".join(filter(None, (reason["name"], reason["detail"]))))
    return lines


def headline(facts: dict[str, Any]) -> str:
    """Say in one line what the next run will do."""
    count = Counter(stage["state"] for stage in facts["stages"])
    if count["fresh"] == len(facts["stages"]):
        return f"{facts['pipeline']}: all {count['fresh']} stages are fresh; the next run runs none of them"
    words = {"running": "running now", "stale": "stale", "pending": "may follow", "fresh": "fresh"}
    head = f"{facts['pipeline']}, {len(facts['stages'])} stages: "
    return head + ", ".join(f"{count[name]} {word}" for name, word in words.items() if count[name])


def tools_page(facts: dict[str, Any]) -> list[str]:
    """Return one line a tool: what it says of the files as they lie."""
    mlflow, prefect, live = facts["mlflow"], facts["prefect"], facts["deployed"]
    missing = f"none: {facts['missing'][0]} is missing" if facts["missing"] else ""
    missing += f", and {len(facts['missing']) - 1} more" * (len(facts["missing"]) > 1)
    says = {
        "run key": missing or f"{facts['run_key'][:12]}, of the files as they lie",
        "DVC": f"record is {facts['stages'][-1]['state']}",
        "MLflow": mlflow.get("why") or f"{mlflow['run']}, {mlflow['status']}" + ", champion" * mlflow["champion"],
        "Prefect": prefect.get("why") or f"run {prefect['run']}, {prefect['state']}",
        "deployed": live.get("why")
        or f"{live['engine']}, version {live['version']}, {'this' if live['this_package'] else 'not this'} package",
    }
    return ["", *(line for name, text in says.items() for line in wrapped(f"  {name:<11}", text))]


def wrapped(head: str, text: str) -> list[str]:
    """Return a line, or several where it is wider than the terminal; nothing is cut off."""
    room = max(terminal.width(), len(head) + 20)
    lines = textwrap.wrap(text, room, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)
    return [line.rstrip() for line in lines or [head]]


def local(moment: str) -> str:
    """Return a time of Prefect's as people here read it: `2026-11-23 22:10`."""
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M}"
