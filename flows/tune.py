"""tune: which knobs let one server answer the most requests within a p99, and how many servers a load needs."""

import os
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows import gate, services, terminal, trial, tuned, tuning, turn
from flows.tuning import COARSE, FINE, HOPELESS, LOWEST, REPEATS, Knobs
from tasks.params import block, checked, read
from tasks.settings import STATE

REFUSED, INTERRUPTED = 3, 130
SEARCHING = 0.55  # of the time, before the finals
PLANNED = 3.0  # times as long as other rates the one that the plan counts on is watched


class Asked(BaseModel):
    """What is asked of a tuning, as options of the command."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    p99_ms: Annotated[float, Field(gt=0, le=60_000)]
    requests_per_s: Annotated[list[Annotated[float, Field(gt=0, le=1e9)]], Field(min_length=1)]
    seconds: Annotated[float, Field(ge=0.2, le=60)]
    minutes: Annotated[float, Field(gt=0, le=240)]
    headroom: Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Final:
    """A finalist, and the capacities (requests/s) that were measured of it."""

    knobs: Knobs
    capacities: list[float]

    def capacity(self) -> float:
        """Return the median."""
        return median(self.capacities)


def tune_pipeline(pipeline: str, asked: dict[str, Any]) -> int:
    """Start Prefect where it is not up, tune, and print what was found; return the exit code, 3 where no rate holds."""
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell ignores Ctrl-C for what it starts in the background
        signal.signal(number, signal.default_int_handler)
    options: Asked = checked(Asked, asked, "tune")
    if gate.read_json(gate.package(pipeline) / "package.json")["engine"] is None:
        raise ValueError(f"{gate.package(pipeline)}: no engine was packaged, so there is nothing to tune")
    prefect = [each for each in services.known() if each.name == "prefect"]
    services.start(prefect)
    services.wait(prefect)
    try:
        with turn.taken(pipeline):
            result = tune(pipeline, options.model_dump())
    except KeyboardInterrupt:
        terminal.paragraph(f"interrupted; what was measured is in {STATE / 'tune' / pipeline}")
        return INTERRUPTED
    return 0 if result["capacity_per_s"] else REFUSED


@flow(name="tune", flow_run_name="tune-{pipeline}")
def tune(pipeline: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Leave curve.csv, curve.png and tune.json below .state/tune, and in MLflow; return the content of tune.json.

    The live servers are left alone: each combination of knobs is served in a sandbox.
    """
    options, begun = Asked(**asked), time.monotonic()
    folder = STATE / "tune" / pipeline / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder.mkdir(parents=True)
    busy = tuned.busy()
    now, limits = trial.packaged(pipeline), trial.Limits(options.p99_ms, options.seconds)
    tuned.announce(pipeline, options.p99_ms, options.minutes, now, busy)
    bench = trial.Trial(pipeline, limits, folder / "curve.csv", trial.messages(pipeline))
    found = search(bench, now, folder, begun + 60 * options.minutes * SEARCHING)
    finals = compare(bench, finalists(found, now), folder, found, begun + 60 * options.minutes)
    content = tuned.facts(pipeline, options.model_dump(), busy, found, finals, begun)
    chosen = finals[-1] if content["better"] else finals[0]
    if chosen.capacity():
        content |= expect(bench, chosen, folder, options.headroom)
        rates, capacity = options.requests_per_s, content["capacity_per_s"]
        content["plan"] = tuning.plan(rates, capacity, options.headroom)
    tuned.leave(bench, folder, content, [final.knobs for final in finals])
    return content


def search(bench: trial.Trial, now: Knobs, folder: Path, until: float) -> dict[Knobs, float]:
    """Return the capacity of each combination tried, the packaged one first; one line each."""
    build = block(bench.pipeline, read())["build"]
    measured: list[float] = []
    tuned.head()

    def capacity(knobs: Knobs) -> float | None:
        if measured and time.monotonic() > until:
            terminal.say("no time is left to try more; see --minutes")
            return None
        best = max(measured, default=0.0)
        lowest = max(LOWEST, HOPELESS * best)
        with trial.served(bench.pipeline, knobs, folder, "tune") as address:
            start = bench.warm_up(address)
            measured.append(bench.capacity(address, knobs, best or start, "search", FINE if best else COARSE, lowest))
        tuned.line(bench, knobs, measured[-1], lowest)
        return measured[-1]

    return tuning.climb(now, capacity, os.cpu_count() or 1, int(build["max_batch"]))


def finalists(found: dict[Knobs, float], now: Knobs) -> list[Knobs]:
    """Return the packaged knobs, and the best others where any were tried."""
    others = [knobs for knobs in found if knobs != now]
    return [now, *([max(others, key=lambda knobs: found[knobs])] if others else [])]


def compare(
    bench: trial.Trial, knobs: list[Knobs], folder: Path, found: dict[Knobs, float], until: float
) -> list[Final]:
    """Measure the finalists' capacities again, taking turns, so that a busy moment hits them alike.

    Where time runs out there are fewer turns than `REPEATS`, one at least.
    """
    finals = [Final(each, []) for each in knobs]
    with ExitStack() as stack:
        running = [
            stack.enter_context(trial.served(bench.pipeline, each, folder, f"tune-{place}"))
            for place, each in enumerate(knobs)
        ]
        for address in running:
            bench.warm_up(address)
        for turn_of in range(REPEATS):
            if turn_of and time.monotonic() > until:
                terminal.say("no time is left to measure again; see --minutes")
                break
            for final, address in zip(finals, running, strict=True):
                start = found[final.knobs] or found[knobs[0]]
                final.capacities.append(bench.capacity(address, final.knobs, start, f"final {turn_of + 1}", FINE))
            said = " against ".join(f"{final.capacities[-1]:,.0f}" for final in reversed(finals))
            terminal.say(terminal.fit(f"finals, turn {turn_of + 1} of {REPEATS}: {said} requests/s"))
    return finals


def expect(bench: trial.Trial, final: Final, folder: Path, headroom: float) -> dict[str, Any]:
    """Measure what p99 to expect at the load that the plan gives a server."""
    rate = final.capacity() * (1 - headroom)
    with trial.served(bench.pipeline, final.knobs, folder, "tune") as address:
        bench.warm_up(address)
        point = bench.measure(address, final.knobs, rate, "plan", PLANNED)
    found = point.load
    return {"planned": {"requests_per_s": round(rate, 1), "p99_ms": round(found.p99_ms, 2), "n": found.answered}}
