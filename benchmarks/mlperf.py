"""MLPerf LoadGen against a served pipeline, in an environment of its own (apps/loadgen.lock).

    python mlperf.py ADDRESS MODEL SHARD.tar KEYS_FOLDER P99_MS OUT_FOLDER

SingleStream, Server and Offline in performance mode over gRPC through the door. Shorter than MLPerf's rules ask for
(they want 600 s): figures to compare on one machine, no submission. Prints JSON; LoadGen's own logs stay in the folder.
"""

import json
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import mlperf_loadgen as loadgen
import numpy as np
import tritonclient.grpc as triton

DURATION_MS, SERVER_MS, SAMPLES, BATCH, IN_FLIGHT = 10_000, 30_000, 1024, 64, 4
STEP, TRIES, FIRST, LEAST = 1.25, 2, 200.0, 10.0  # between two rates of Server, at each; the first, the lowest
OFFLINE = 12_000.0  # samples a second that Offline is sized for


class Served:
    """The system under test: sends LoadGen's queries as they come, or bulk ones in batches."""

    def __init__(self, address: str, model: str, shard: str, keys: Path) -> None:
        self.client = triton.InferenceServerClient(address)
        files = {"one": keys / "realtime" / "local", "many": keys / "throughput" / "bulk"}
        self.headers = {
            name: {"authorization": path.read_text().split(": ")[1].strip()} for name, path in files.items()
        }
        self.model = model
        self.input = self.client.get_model_metadata(model, headers=self.headers["one"]).inputs[0].name
        with tarfile.open(shard) as tar:
            names = [name for name in tar.getnames() if name.endswith(".sample")][:SAMPLES]
            self.samples = [tar.extractfile(name).read() for name in names]  # type: ignore[union-attr]
        self.failed: list[str] = []
        self.slots = threading.Semaphore(IN_FLIGHT)

    def issue(self, queries: list[Any]) -> None:
        """Send queries: one by one as a client would, or many in batches, a few in flight."""
        if len(queries) < BATCH:
            for query in queries:
                self.send([query], "one")
            return
        for start in range(0, len(queries), BATCH):
            self.slots.acquire()
            self.send(queries[start : start + BATCH], "many")

    def send(self, queries: list[Any], kind: str) -> None:
        """Send one request; its answer completes the queries."""
        array = np.array([self.samples[query.index] for query in queries], dtype=object).reshape(-1, 1)
        asked = triton.InferInput(self.input, array.shape, "BYTES").set_data_from_numpy(array)

        def done(result: Any, error: Any) -> None:
            if error:
                self.failed.append(str(error))
            if kind == "many":
                self.slots.release()
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(query.id, 0, 0) for query in queries])

        self.client.async_infer(self.model, [asked], done, headers=self.headers[kind])


def run(served: Served, scenario: str, out: Path, **given: Any) -> dict[str, Any]:
    """Run a scenario and return LoadGen's own summary as facts."""
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = DURATION_MS
    settings.min_query_count = 100
    for name, value in given.items():
        setattr(settings, name, value)
    log = loadgen.LogSettings()
    log.log_output.outdir = str(out)
    log.log_output.prefix = f"{scenario}_"
    log.enable_trace = False
    system = loadgen.ConstructSUT(served.issue, lambda: None)
    library = loadgen.ConstructQSL(len(served.samples), len(served.samples), lambda _: None, lambda _: None)
    loadgen.StartTestWithLogSettings(system, library, settings, log, "")
    loadgen.DestroyQSL(library)
    loadgen.DestroySUT(system)
    failed, served.failed = served.failed, []
    lines = (out / f"{scenario}_summary.txt").read_text().splitlines()
    pairs = [line.split(":", 1) for line in lines if ":" in line]
    found = {name.strip(): value.strip() for name, value in (pair[:2] for pair in pairs)}
    if failed:  # LoadGen knows answers alone
        found |= {"Result is": "INVALID", "failed": str(len(failed)), "first failure": failed[0]}
    return found


def main(address: str, model: str, shard: str, keys: Path, bound_ms: float, out: Path) -> None:
    """Run the three scenarios; of Server, the highest rate that LoadGen calls valid."""
    out.mkdir(parents=True, exist_ok=True)
    served = Served(address, model, shard, keys)
    single = run(served, "SingleStream", out)
    offline = run(served, "Offline", out, offline_expected_qps=OFFLINE)
    print(json.dumps({"SingleStream": single, "Server": highest(served, bound_ms, out), "Offline": offline}))


def highest(served: Served, bound_ms: float, out: Path) -> dict[str, Any]:
    """Return LoadGen's summary of the highest rate that it calls valid; of the lowest, where it calls none so."""
    rate, valid = FIRST, dict[str, Any]()  # halved until it is valid, then raised until it isn't
    bound = {"server_target_latency_ns": int(bound_ms * 1e6), "server_target_latency_percentile": 0.99}
    while True:
        for _ in range(TRIES):
            found = run(served, "Server", out, server_target_qps=rate, min_duration_ms=SERVER_MS, **bound)
            if found["Result is"] == "VALID":
                break
        else:
            if valid or rate < 2 * LEAST:
                return valid or found
            rate /= 2
            continue
        valid, rate = found, rate * STEP


if __name__ == "__main__":
    main(*sys.argv[1:4], Path(sys.argv[4]), float(sys.argv[5]), Path(sys.argv[6]))
