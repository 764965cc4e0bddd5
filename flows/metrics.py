"""What Prometheus gets on the metrics port: each replica's own metrics, what the supervisor saw, what is live.

An answer takes less than a second whatever hangs, and neither waits for the supervisor's work nor holds it up.
"""

import re
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from flows import addresses, receipt, services
from flows.replicas import Replica

REPLICA_S = 0.5  # that a replica may take to answer
CLIENT_S = 5.0  # that one who scrapes may take to ask
TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Models count a histogram in parts: one of the server's own would take each value by itself.
HISTOGRAM = "engineworks_confidence"
PARTS = {f"{HISTOGRAM}{part}" for part in ("_bucket", "_sum", "_count")}
SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")


@dataclass
class Seen:
    """What the supervisor saw of each pipeline on each replica, and what it did; it alone writes here."""

    since: float = field(default_factory=time.monotonic)
    right: dict[tuple[str, str], float] = field(default_factory=dict)  # when the last right answer came
    latency: dict[tuple[str, str], float] = field(default_factory=dict)
    restarts: Counter[str] = field(default_factory=Counter)

    def answered(self, pipeline: str, replica: str, seconds: float) -> None:
        """Note a right answer to a canary and how long it took."""
        self.right[pipeline, replica], self.latency[pipeline, replica] = time.monotonic(), seconds


@dataclass(frozen=True, eq=False)  # the library keeps it in a dict
class State:
    """What the supervisor and the receipts say, as Prometheus' library collects it."""

    seen: Seen
    replicas: list[Replica]
    up: set[str]

    def collect(self) -> Iterator[Metric]:
        """Give all that is no replica's own."""
        up = GaugeMetricFamily(
            "engineworks_replica_up", "Whether a replica gave its metrics just now", None, ["replica"]
        )
        for replica in self.replicas:
            up.add_metric([replica.name], float(replica.name in self.up))
        restarts = CounterMetricFamily(
            "engineworks_restarts", "Processes that the supervisor started anew, since its own start", None, ["service"]
        )
        for service in (*(replica.name for replica in self.replicas), "door", *services.REVIVED):
            restarts.add_metric([service], self.seen.restarts[service])
        yield from (up, restarts, *self.canaries(), *self.champions())

    def canaries(self) -> Iterable[Metric]:
        """Give how canaries fare. Where none was answered yet, its age is the supervisor's own."""
        words = "Seconds since the last right answer to a canary"
        age = GaugeMetricFamily("engineworks_canary_age_seconds", words, None, ["pipeline", "replica"])
        words = "How long the last right answer to a canary took"
        latency = GaugeMetricFamily("engineworks_canary_latency_seconds", words, None, ["pipeline", "replica"])
        now, taken = time.monotonic(), dict(self.seen.latency)
        for pair in [(pipeline, replica.name) for pipeline in receipt.pipelines() for replica in self.replicas]:
            age.add_metric(pair, now - self.seen.right.get(pair, self.seen.since))
            if pair in taken:
                latency.add_metric(pair, taken[pair])
        return age, latency

    def champions(self) -> Iterable[Metric]:
        """Give what is live of each pipeline, and since when."""
        version = GaugeMetricFamily("engineworks_champion_version", "Version that is live", None, ["pipeline"])
        names = ["pipeline", "version", "engine", "sha256"]
        info = GaugeMetricFamily("engineworks_champion_info", "What is live", None, names)
        words = "When the live version took over, by a deploy or a rollback, in seconds since 1970"
        at = GaugeMetricFamily("engineworks_deploy_timestamp_seconds", words, None, ["pipeline"])
        for pipeline in receipt.pipelines():
            left = receipt.read(pipeline)
            if left is not None:
                version.add_metric([pipeline], left["version"])
                info.add_metric([pipeline, str(left["version"]), left["engine"], left["sha256"]], 1)
                at.add_metric([pipeline], receipt.place(pipeline).stat().st_mtime)
        return version, info, at


def serve(seen: Seen, replicas: list[Replica]) -> None:
    """Answer on the metrics port from now on, in threads beside the caller."""

    class Answer(BaseHTTPRequestHandler):
        """One request."""

        timeout = CLIENT_S

        def do_GET(self) -> None:
            """Answer /metrics."""
            known = self.path.partition("?")[0] == "/metrics"
            body = page(seen, replicas) if known else b"the metrics are at /metrics\n"
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing of each request."""

    server = ThreadingHTTPServer((addresses.HOST, addresses.port("METRICS")), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def page(seen: Seen, replicas: list[Replica]) -> bytes:
    """Return all metrics as text; those of a replica that does not answer in time are missing, and its up is 0."""
    texts = scraped(replicas)
    registry = CollectorRegistry()
    registry.register(State(seen, replicas, set(texts)))
    return generate_latest(registry) + merged(texts).encode()


def scraped(replicas: list[Replica]) -> dict[str, str]:
    """Return the metrics of each replica that gives them in time, asked all at once."""
    pool = ThreadPoolExecutor(len(replicas))
    futures = {replica.name: pool.submit(scrape, replica) for replica in replicas}
    pool.shutdown(wait=False)
    deadline = time.monotonic() + REPLICA_S
    return {name: text for name, future in futures.items() if (text := result(future, deadline)) is not None}


def result(future: Future[str | None], deadline: float) -> str | None:
    """Return what is there at a deadline."""
    try:
        return future.result(max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        return None


def scrape(replica: Replica) -> str | None:
    """Return a replica's metrics; None where it does not give any that can be read."""
    try:
        with urllib.request.urlopen(f"http://{replica.metrics}/metrics", timeout=REPLICA_S) as answer:
            text: str = answer.read().decode()
        list(text_string_to_metric_families(text))
    except (OSError, ValueError):
        return None
    return text


def merged(texts: dict[str, str]) -> str:
    """Join the metrics of several replicas: each sample gets a label `replica`, each family is there once."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for replica, text in texts.items():
        family = ""
        for line in text.splitlines():
            if line.startswith("# HELP "):
                family = line.split()[2]
            if found := SAMPLE.fullmatch(line):
                labels = ",".join(filter(None, (f'replica="{replica}"', found["labels"])))
                samples.setdefault(home(family), []).append(f"{found['name']}{{{labels}}} {found['value']}\n")
            elif line.startswith(("# HELP ", "# TYPE ")) and len(heads.setdefault(home(family), [])) < 2:
                heads[home(family)].append(head(line, family))
    return "".join("".join(heads[name] + samples[name]) for name in samples)


def home(family: str) -> str:
    """Return the family that a family of a server belongs to: the parts of the histogram are one."""
    return HISTOGRAM if family in PARTS else family


def head(line: str, family: str) -> str:
    """Return a line that says what a family is."""
    kind, words = line.split()[1], line.split(maxsplit=3)[3]
    return f"# {kind} {home(family)} {'histogram' if kind == 'TYPE' and family in PARTS else words}\n"
