"""MLPerf LoadGen against a served pipeline, in an environment of its own (apps/loadgen.lock).

    python mlperf.py ADDRESS MODEL SHARD.tar KEY_FILE P99_MS OUT_FOLDER

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

DURATION_MS, SAMPLES, BATCH, IN_FLIGHT = 10_000, 1024, 64, 4
THROUGHPUT = 2  # priority of the class for bulk work
MARGIN = 1.15  # factor between two rates that are tried


class Served:
    """The system under test: sends LoadGen's queries as they come, or bulk ones in batches."""

    def __init__(self, address: str, model: str, shard: str, key: str) -> None:
        self.client = triton.InferenceServerClient(address)
        self.model, self.header = model, {"authorization": key}
        self.input = self.client.get_model_metadata(model, headers=self.header).inputs[0].name
        with tarfile.open(shard) as tar:
            names = [name for name in tar.getnames() if not name.endswith((".cls", ".json", ".txt"))][:SAMPLES]
            self.samples = [tar.extractfile(name).read() for name in names]  # type: ignore[union-attr]
        self.failed: list[str] = []
        self.slots = threading.Semaphore(IN_FLIGHT)

    def issue(self, queries: list[Any]) -> None:
        """Send queries: one by one as a client would, or many in batches, a few in flight."""
        if len(queries) < BATCH:
            for query in queries:
                self.send([query], 0)
            return
        for start in range(0, len(queries), BATCH):
            self.slots.acquire()
            self.send(queries[start : start + BATCH], THROUGHPUT)

    def send(self, queries: list[Any], priority: int) -> None:
        """Send one request; its answer completes the queries."""
        array = np.array([self.samples[query.index] for query in queries], dtype=object).reshape(-1, 1)
        asked = triton.InferInput(self.input, array.shape, "BYTES").set_data_from_numpy(array)

        def done(result: Any, error: Any) -> None:
            if error:
                self.failed.append(str(error))
            if priority:
                self.slots.release()
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(query.id, 0, 0) for query in queries])

        self.client.async_infer(self.model, [asked], done, headers=self.header, priority=priority)


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
    lines = (out / f"{scenario}_mlperf_log_summary.txt").read_text().splitlines()
    pairs = [line.split(" : ") for line in lines if " : " in line]
    return {name.strip(): value.strip() for name, value in (pair[:2] for pair in pairs)}


def main(address: str, model: str, shard: str, key: str, bound_ms: float, out: Path) -> None:
    """Run the three scenarios; of Server, the highest rate that LoadGen calls valid."""
    out.mkdir(parents=True, exist_ok=True)
    served = Served(address, model, shard, key)
    single = run(served, "SingleStream", out)
    offline = run(served, "Offline", out, offline_expected_qps=2000.0)
    rate, valid = 50.0, dict[str, Any]()
    while True:
        found = run(
            served,
            "Server",
            out,
            server_target_qps=rate,
            server_target_latency_ns=int(bound_ms * 1e6),
            server_target_latency_percentile=0.99,
        )
        if found["Result is"] != "VALID":
            break
        valid, rate = found, rate * MARGIN
    print(json.dumps({"SingleStream": single, "Server": valid, "Offline": offline, "failed": len(served.failed)}))


if __name__ == "__main__":
    main(*sys.argv[1:4], Path(sys.argv[4]).read_text().split(": ")[1].strip(), float(sys.argv[5]), Path(sys.argv[6]))
