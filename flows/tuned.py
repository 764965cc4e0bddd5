"""What a tuning leaves: lines on the terminal, tune.json, the picture, the artifact, and the files in MLflow."""

import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from flows import gate, replicas, services, terminal
from flows.trial import Trial
from flows.tuning import Knobs, is_better
from tasks import atomic, pictures, target

WATCHED_S = 1.0
BUSY = 0.1  # of the machine
HEAD = f"{'instances':>9}{'threads':>9}{'batch':>7}{'delay us':>10}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}"


def busy() -> dict[str, float]:
    """Return how busy the machine is before the trial, and the live servers: shares of all cores, watched a second."""
    servers = [each for one in replicas.replicas() if (each := services.process(one.name)) is not None]
    families = [each for one in servers for each in (one, *one.children(recursive=True))]
    before, _ = spent(families), psutil.cpu_percent()
    time.sleep(WATCHED_S)
    cores = psutil.cpu_count() or 1
    return {
        "machine": round(psutil.cpu_percent() / 100, 3),
        "live_servers": round(max(0.0, spent(families) - before) / WATCHED_S / cores, 3),
    }


def spent(processes: list[psutil.Process]) -> float:
    """Return the CPU seconds that living processes took so far."""
    total = 0.0
    for each in processes:
        try:
            total += sum(each.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return total


def announce(pipeline: str, p99_ms: float, minutes: float, now: Knobs, found: dict[str, float]) -> None:
    """Say what begins, and what may disturb it."""
    terminal.paragraph(
        f"{pipeline}: the highest rate whose p99 is at most {p99_ms:g} ms, knob by knob, in about {minutes:g} min; "
        f"the package has {now}"
    )
    if found["live_servers"] > BUSY:
        share = f"{found['live_servers']:.0%}"
        terminal.paragraph(f"the live servers are busy with {share} of this machine: what is left is measured")
    elif found["machine"] > BUSY:
        terminal.paragraph(f"{found['machine']:.0%} of this machine is busy with other work: figures will be lower")


def head() -> None:
    """Print the head of the table of what is tried."""
    terminal.say(f"\n{HEAD}")


def line(bench: Trial, knobs: Knobs, capacity: float, lowest: float) -> None:
    """Print one combination's line: its capacity, or that it is below the lowest rate tried; p50 and p99 there."""
    own = [point for point in bench.points if point.knobs == knobs and point.held]
    best = max(own, key=lambda point: point.load.asked_per_s or 0, default=None)
    p50, p99 = (f"{best.load.p50_ms:.1f}", f"{best.load.p99_ms:.1f}") if best else ("-", "-")
    rate = f"{capacity:,.0f}" if capacity else f"below {lowest:,.0f}"
    cells = f"{knobs.instances:>9}{knobs.threads:>9}{knobs.max_batch_size:>7}{knobs.max_queue_delay_us:>10}"
    terminal.say(f"{cells}{rate:>12}{p50:>9}{p99:>9}")


def facts(
    pipeline: str,
    asked: dict[str, Any],
    busy: dict[str, float],
    found: dict[Knobs, float],
    finals: list[Any],
    begun: float,
) -> dict[str, Any]:
    """Return the content of tune.json, but for the plan."""
    current, best = finals[0], finals[-1]
    better = best is not current and is_better(best.capacities, current.capacities)
    return {
        "pipeline": pipeline,
        "package_sha256": gate.read_json(gate.package(pipeline) / "package.json")["sha256"],
        "asked": asked,
        "machine": target.cpu(),
        "busy_before": busy,
        "client": "on the same cores",
        "tried": [{**asdict(knobs), "capacity_per_s": round(rate, 1)} for knobs, rate in found.items()],
        "finals": [{**asdict(each.knobs), "capacities_per_s": each.capacities} for each in finals],
        "better": better,
        "winner": asdict((best if better else current).knobs),
        "capacity_per_s": round((best if better else current).capacity(), 1),
        "n": len(current.capacities),
        "seconds": round(time.monotonic() - begun, 1),
        "plan": [],
    }


def leave(bench: Trial, folder: Path, content: dict[str, Any], finalists: list[Knobs]) -> None:
    """Write tune.json and curve.png, print verdict and plan, and hand all to Prefect and MLflow."""
    atomic.write_json(folder / "tune.json", content)
    curves = {str(knobs): bench.curve_of(knobs) for knobs in finalists}
    pictures.load_curve(folder / "curve.png", curves, bench.limits.p99_ms, bench.pipeline)
    for text in [*verdict(content, bench), *plan(content)]:
        terminal.paragraph(text) if len(text) > terminal.width() else terminal.say(text)
    from prefect.artifacts import create_table_artifact

    key = f"tune-{bench.pipeline.replace('_', '-')}"
    create_table_artifact(content["tried"], key=key, description=f"requests/s at p99 {bench.limits.p99_ms:g} ms")
    terminal.paragraph(f"every measurement, the picture and the facts: {folder}; {recorded(folder, content)}")


def verdict(content: dict[str, Any], bench: Trial) -> list[str]:
    """Say whether other knobs are better than the packaged ones, by how much, and what to write where."""
    finals = content["finals"]
    spans = [span(each["capacities_per_s"]) for each in finals]
    bound = f"p99 {bench.limits.p99_ms:g} ms"
    if not content["capacity_per_s"]:
        return ["", f"no rate holds {bound}: ask for more time, or serve a quicker engine or a larger machine"]
    lines = [""]
    if content["better"]:
        ratio = content["capacity_per_s"] / median(finals[0]["capacities_per_s"] or [1])
        lines += [f"better: {spans[1]} at {bound}, against {spans[0]} as packaged: {ratio:.2f} times"]
        lines += [f"write into params.yaml, pipelines.{content['pipeline']}.package; then: make run"]
        lines += Knobs(**content["winner"]).lines()
    elif len(finals) > 1:
        lines += [f"keep what you have: {spans[0]} at {bound}; the best other knobs: {spans[1]}, not beyond noise"]
    else:
        lines += [f"as packaged: {spans[0]} at {bound}; no time was left to try others"]
    late = [each for each in bench.points if each.load.client_limited and not each.held]
    if late:
        lines += [
            f"in {len(late)} of {len(bench.points)} measurements the client was late, not the server: it may bear more"
        ]
    return lines


def span(capacities: list[float]) -> str:
    """Say capacities as median and range."""
    return (
        f"{median(capacities):,.0f} requests/s ({min(capacities):,.0f} to {max(capacities):,.0f}, n={len(capacities)})"
    )


def plan(content: dict[str, Any]) -> list[str]:
    """Say how many servers each load needs, and what a server is."""
    if not content["plan"]:
        return []
    planned, machine = content["planned"], content["machine"]
    lines = [
        "",
        f"capacity plan: {content['asked']['headroom']:.0%} headroom leaves a server {planned['requests_per_s']:,.0f} "
        f"requests/s, where p99 is {planned['p99_ms']:.1f} ms (n={planned['n']:,})",
        f"{'requests/s':>12}{'servers':>10}{'and a spare':>13}{'each bears, one lost':>23}",
    ]
    for row in content["plan"]:
        lines.append(
            f"{row['requests_per_s']:>12,.0f}{row['servers']:>10,}{row['servers_with_a_spare']:>13,}"
            f"{row['per_server_per_s']:>23,.0f}"
        )
    return [
        *lines,
        f"A server is one like this: {machine['cores']} cores of {machine['cpu']}, with the client on the same cores.",
    ]


def recorded(folder: Path, content: dict[str, Any]) -> str:
    """Put the files and the capacity on the package's run in MLflow; say so, or why they are in the folder alone."""
    from mlflow.exceptions import MlflowException

    from tasks.attachment import attach

    metrics = {"tune/capacity_per_s": content["capacity_per_s"]}
    try:
        run = attach(content["pipeline"], content["package_sha256"], folder, f"tune/{folder.name}", metrics)
    except (ValueError, OSError, MlflowException) as error:
        return f"not in MLflow: {str(error).splitlines()[0]}"
    return f"in MLflow on {run}"
