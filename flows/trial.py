"""A trial: a package served with other knobs in a server of its own, and how much load it bears."""

import csv
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flows import gate, golden, load, promotion, sandbox, sender
from flows.addresses import HOST
from flows.tuning import LOWEST, Knobs, highest
from tasks.lint import lint
from tasks.package import VERSION, modality, parts, write_config

MESSAGES = 1000  # requests, of samples of the test set, that are sent in turn
ENOUGH, LONGEST_S = 200, 5.0  # answers that a p99 is taken of, where that many come within this time
TIMEOUT_S = 5.0
ATTEMPTS = 3  # at one rate
BACKLOG = 10  # times the bound: how far behind a server may be before requests are not sent
RISE = 0.25  # of the bound: how much the median may rise while a rate holds
CLIENTS, WARM_S = 4, 0.5  # of the closed loop that warms a server up, and finds where to start
START = 0.6  # of what the closed loop was answered


@dataclass(frozen=True)
class Limits:
    """What a rate has to hold, and for how long it is watched."""

    p99_ms: float
    seconds: float


@dataclass
class Point:
    """One measurement of a combination of knobs at a rate."""

    phase: str
    knobs: Knobs
    load: load.Load
    held: bool

    def row(self) -> dict[str, Any]:
        """Return it as a row of curve.csv."""
        numbers = asdict(self.load)
        numbers["errors"] = " ".join(f"{name}={count}" for name, count in numbers["errors"].items())
        rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in numbers.items()}
        return {"phase": self.phase, **asdict(self.knobs), **rounded, "held": self.held}


@dataclass
class Trial:
    """A package under trial; every measurement is a point, and a row of `curve` at once."""

    pipeline: str
    limits: Limits
    curve: Path
    messages: list[bytes]
    points: list[Point] = field(default_factory=list)

    def capacity(
        self, address: str, knobs: Knobs, start: float, phase: str, step: float, lowest: float = LOWEST
    ) -> float:
        """Return the highest rate (requests/s) that holds, 0 where not even the `lowest` does.

        A rate that failed by its tail alone, its median below half of the bound, is tried once more, and where the
        client was late twice more: on a machine with other work, one pause of 50 ms would decide otherwise.
        """

        def holds(rate: float) -> bool:
            for attempt in range(ATTEMPTS):
                point = self.measure(address, knobs, rate, phase)
                if point.held:
                    return True
                tail = not point.load.errors and point.load.p50_ms < self.limits.p99_ms / 2
                if not tail or (attempt and not point.load.client_limited):
                    return False
            return False

        return highest(holds, start, step, lowest)

    def measure(self, address: str, knobs: Knobs, rate: float, phase: str, times: float = 1) -> Point:
        """Measure at one rate for the time of the limits, `times` it, or until a p99 means something."""
        seconds = max(self.limits.seconds * times, min(ENOUGH / rate, LONGEST_S))
        bound_s = self.limits.p99_ms / 1e3
        found = load.open_loop(
            address,
            self.messages,
            rate=rate,
            seconds=seconds,
            seed=len(self.points),
            timeout_s=max(TIMEOUT_S, 2 * BACKLOG * bound_s),
            most_in_flight=int(64 + BACKLOG * bound_s * rate),
        )
        point = Point(phase, knobs, found, held(found, self.limits.p99_ms))
        self.points.append(point)
        self.write(point)
        return point

    def write(self, point: Point) -> None:
        """Append a point to the curve's file."""
        is_new = not self.curve.exists()
        with self.curve.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(point.row()))
            if is_new:
                writer.writeheader()
            writer.writerow(point.row())

    def curve_of(self, knobs: Knobs) -> list[tuple[float, float]]:
        """Return the points of a combination as rate (requests/s) and p99 (ms), by rate; those without errors."""
        own = [point.load for point in self.points if point.knobs == knobs and not point.load.errors]
        return sorted((each.asked_per_s or 0.0, each.p99_ms) for each in own)

    def warm_up(self, address: str) -> float:
        """Send what first requests cost, then return where to look for the capacity: a share of a closed loop's."""
        found = [
            load.closed_loop(address, self.messages, concurrency=CLIENTS, seconds=WARM_S, timeout_s=TIMEOUT_S)
            for _ in range(2)
        ][-1]
        if not found.answered:
            raise ValueError(f"tune: the sandbox answers nothing but {found.errors}")
        return START * found.achieved_per_s


def held(found: load.Load, p99_ms: float) -> bool:
    """Tell whether a server bore a load: no error, the p99 within its bound, and no backlog that grows."""
    return not found.errors and found.p99_ms <= p99_ms and found.rise_ms <= RISE * p99_ms


def messages(pipeline: str) -> list[bytes]:
    """Return requests of one sample of the test set each, for the model that clients ask."""
    spec = gate.read_json(gate.package(pipeline) / "repository" / pipeline / VERSION / "spec.json")
    encoded = promotion.test_set(pipeline).samples[:MESSAGES]
    return [sender.samples(pipeline, modality(spec), [each]) for each in encoded]


def packaged(pipeline: str) -> Knobs:
    """Return the knobs that a package was made with, from the configuration of its engine's model."""
    config = configuration(gate.package(pipeline) / "repository" / parts(pipeline)[1] / "config.pbtxt")
    delay = config.dynamic_batching.max_queue_delay_microseconds
    threads = int(config.parameters["threads"].string_value)
    return Knobs(config.max_batch_size, delay, config.instance_group[0].count, threads)


def configuration(path: Path) -> Any:
    """Read a model's configuration."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as messages

    return text_format.Parse(path.read_text(), messages.ModelConfig())


def repository(pipeline: str, knobs: Knobs, folder: Path) -> None:
    """Leave a copy of the packaged repository with other knobs; `ValueError` where Triton would not take it."""
    shutil.copytree(gate.package(pipeline) / "repository", folder)
    for path in folder.glob("*/config.pbtxt"):
        config = configuration(path)
        config.max_batch_size = knobs.max_batch_size
        if config.name in parts(pipeline):
            config.dynamic_batching.max_queue_delay_microseconds = knobs.max_queue_delay_us
            config.instance_group[0].count = knobs.instances
            config.parameters["threads"].string_value = str(knobs.threads)
        write_config(path, config)
    if complaints := lint(folder):
        raise ValueError(f"tune: {knobs}: {'; '.join(complaints)}")


@contextmanager
def served(pipeline: str, knobs: Knobs, folder: Path, name: str) -> Iterator[str]:
    """Serve a package with other knobs and give the address, once the golden batch came back right; then all is gone.

    `name` is that of its log and, below `folder`, of its repository.
    """
    try:
        repository(pipeline, knobs, folder / name)
        port = sandbox.free_port()
        with sandbox.sandbox(folder / name, pipeline, port, name) as there:
            engine = gate.read_json(gate.package(pipeline) / "package.json")["engine"]
            batch = golden.read(gate.package(pipeline), pipeline, engine, gate.classes(pipeline))
            golden.prove(there, batch, gate.knobs(pipeline).max_score_difference)
            yield f"{HOST}:{port}"
    finally:
        shutil.rmtree(folder / name, ignore_errors=True)
