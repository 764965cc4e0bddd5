"""Metrics and the log of answers: what clients were answered, no more and no less, whatever is down."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from flows import metrics, observed
from flows.replicas import Knobs
from flows.replicas import Replica as Address
from tasks.params import checked
from tests.conftest import Miniature
from tests.miniature import ROOT
from tests.test_yy_deploys import python, read
from tests.test_yy_heals import servers
from tests.traffic import Traffic

CLASSES = ["a", "bö", "c"]
SENT, BATCH = 60, 2


# The log, outside the server.


@pytest.fixture
def served_code(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What models observe with, imported as the server does."""
    monkeypatch.syspath_prepend(ROOT / "infra" / "serving" / "repository")
    import observation

    yield observation
    for name in ("observation", "observed"):
        del sys.modules[name]


def make_log(code: Any, folder: Path, **knobs: Any) -> Any:
    return code.Log(folder, "toy", 3, CLASSES, **({"sample": 1.0, "max_bytes": 10**6, "keep": "statistics"} | knobs))


def batch(n: int, seed: int = 0) -> tuple[Any, Any]:
    """Return images [n, 2, 4, 4] and probabilities [n, 3]."""
    generator = np.random.default_rng(seed)
    powers = np.exp(generator.normal(0, 2, (n, len(CLASSES))))
    x = generator.normal(3, 2, (n, 2, 4, 4)).astype(np.float32)
    return x, (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(observed, "OBSERVED", folder)
    return list(observed.read("toy"))


def test_a_logged_answer_has_numpys_statistics_and_no_image(
    served_code: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, (x, scores) = make_log(served_code, tmp_path), batch(20)
    log.note(x, scores)
    assert log.write() == 0
    found = lines(tmp_path, monkeypatch)
    assert [each["label"] for each in found] == [CLASSES[i] for i in scores.argmax(axis=1)]
    np.testing.assert_allclose([each["scores"] for each in found], scores, rtol=1e-6)
    np.testing.assert_allclose([each["confidence"] for each in found], scores.max(axis=1), rtol=1e-6)
    for name in ("mean", "std", "min", "max"):
        expected = getattr(x.astype(np.float64), name)(axis=(2, 3))
        np.testing.assert_allclose([each["input"][name] for each in found], expected, rtol=1e-6)
    assert {tuple(each) for each in found} == {("time", "version", "label", "confidence", "scores", "input")}
    assert {each["version"] for each in found} == {3} and abs(found[0]["time"] - time.time()) < 60


def test_outputs_alone_are_kept_where_the_knob_says_so(
    served_code: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make_log(served_code, tmp_path, keep="outputs")
    log.note(*batch(3))
    log.write()
    assert [set(each) for each in lines(tmp_path, monkeypatch)] == [
        {"time", "version", "label", "confidence", "scores"}
    ] * 3


class Tally:
    """Takes the place of Triton's metrics: each family makes counters that count."""

    def __init__(self, name: str, words: str) -> None:
        self.name, self.made = name, dict[tuple[str, ...], float]()

    def Metric(self, labels: dict[str, str]) -> Any:
        return Count(self.made, tuple(labels.values()))


class Count:
    """One counter."""

    def __init__(self, made: dict[tuple[str, ...], float], key: tuple[str, ...]) -> None:
        self.made, self.key = made, key
        made[key] = 0

    def increment(self, value: float) -> None:
        self.made[self.key] += value


@pytest.mark.parametrize("keep", ["nothing", "outputs"])
def test_nothing_is_written_where_nothing_may_be_kept_but_all_is_counted(
    served_code: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    monkeypatch.setenv("ENGINEWORKS_OBSERVED", str(tmp_path))
    monkeypatch.setenv("ENGINEWORKS_OBSERVE", json.dumps({"sample": 1.0, "max_mb": 1, "keep": keep}))
    families: dict[str, Tally] = {}
    made = served_code.observation(
        "toy_engine.3", CLASSES, lambda name, words: families.setdefault(name, Tally(name, words))
    )
    _, scores = batch(200)
    made.note("", np.zeros((200, 2, 4, 4), np.float32), scores)
    made.note(served_code.OURS, np.zeros((1, 2, 4, 4), np.float32), scores[:1])
    made.end()
    assert bool(list(tmp_path.iterdir())) == (keep != "nothing")
    counted = {key[2]: value for key, value in families["engineworks_predictions_total"].made.items()}
    assert counted == {name: (scores.argmax(axis=1) == i).sum() for i, name in enumerate(CLASSES)}
    buckets = {key[2]: value for key, value in families["engineworks_confidence_bucket"].made.items()}
    assert buckets == {edge: (scores.max(axis=1) <= float(edge) + 1e-7).sum() for edge in buckets}
    assert list(buckets)[-1] == "+Inf" and buckets["+Inf"] == 200 > buckets["0.6"] > 0


def test_a_server_that_is_not_told_to_observe_does_not(served_code: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGINEWORKS_OBSERVE", raising=False)
    assert served_code.observation("toy_engine.3", CLASSES, Tally) is None


def test_the_log_stays_within_its_bound_and_the_newest_stay(
    served_code: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was larger under an earlier knob."""
    bound = 40_000
    for name in ("toy.jsonl", "toy.1.jsonl"):
        (tmp_path / name).write_bytes(b'{"time":0}\n' * 10_000)
    log = make_log(served_code, tmp_path, max_bytes=bound)
    for number in range(40):
        log.version = number
        log.note(*batch(25))
        assert log.write() == 0
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= bound
    versions = [each["version"] for each in lines(tmp_path, monkeypatch)]
    assert versions == sorted(versions) and versions[-25:] == [39] * 25 and 100 <= len(versions) < 1000


def test_two_processes_write_one_log_and_neither_waits_for_the_other(
    served_code: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that was stopped while it held the log's lock holds up nobody."""
    first, second = (make_log(served_code, tmp_path) for _ in range(2))
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "toy.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline()
        begun = time.monotonic()
        first.note(*batch(5))
        assert first.write() == 0 and time.monotonic() - begun < 1 and lines(tmp_path, monkeypatch) == []
        other.communicate("\n")
    for log in (second, first):
        log.note(*batch(7))
        assert log.write() == 0
    assert len(lines(tmp_path, monkeypatch)) == 5 + 7 + 7


def test_on_a_full_disk_answers_are_dropped_and_counted_and_no_line_is_torn(
    served_code: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make_log(served_code, tmp_path)
    log.note(*batch(5))
    assert log.write() == 0
    before = (tmp_path / "toy.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before + 100, hard))  # some bytes are left, fewer than a line has
    try:
        log.note(*batch(5))
        assert log.write() == 5
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "toy.jsonl").stat().st_size == before
    log.note(*batch(2))
    assert log.write() == 0 and len(lines(tmp_path, monkeypatch)) == 7


def test_what_a_killed_server_left_of_a_line_is_passed_over() -> None:
    whole = b'{"time":1,"input":{"mean":[1]}}\n'
    for end in range(1, len(whole) - 1):
        assert list(observed.whole(whole + whole[:end] + whole)) == [json.loads(whole)] * 2, whole[:end]
        assert list(observed.whole(whole + whole[:end])) == [json.loads(whole)]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"sample": 1.5}, "observe.sample: Input should be less than or equal to 1"),
        ({"keep": "images"}, "observe.keep: Input should be 'nothing', 'outputs' or 'statistics'"),
        ({"max_gb": 1}, "observe: max_gb: no such knob"),
    ],
)
def test_a_wrong_knob_is_named(wrong: dict[str, Any], sentence: str) -> None:
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text())["serving"]
    checked(Knobs, shipped, "serving")
    with pytest.raises(ValueError, match=sentence):
        checked(Knobs, shipped | {"observe": shipped["observe"] | wrong}, "serving")


# The metrics port.


def scrape(system: Miniature) -> str:
    with urllib.request.urlopen(f"{system.url('METRICS')}/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def families(text: str) -> dict[str, Metric]:
    """Parse, and see that each family is there once and says what it is."""
    found = list(text_string_to_metric_families(text))
    names = [family.name for family in found]
    assert len(names) == len(set(names)) and not [family.name for family in found if family.type == "unknown"]
    for kind in ("HELP", "TYPE"):
        declared = [line.split()[2] for line in text.splitlines() if line.startswith(f"# {kind} ")]
        assert len(declared) == len(set(declared)) == len(names)
    return dict(zip(names, found, strict=True))


def total(text: str, name: str, *labels: str) -> Counter[Any]:
    """Sum a family's samples over the replicas, by the values of these labels."""
    found: Counter[Any] = Counter()
    for family in families(text).values():
        for sample in family.samples:
            if sample.name == name:
                found[tuple(sample.labels[label] for label in labels)] += sample.value
    return found


def live_log(system: Miniature) -> list[dict[str, Any]]:
    files = [system.folder / f".state/triton/observed/fashion{end}.jsonl" for end in (".1", "")]
    return [json.loads(line) for path in files if path.exists() for line in path.read_text().splitlines()]


def test_metrics_and_log_hold_what_clients_were_answered_and_no_canary(ran: Miniature) -> None:
    """Over both replicas: samples per class, the confidences; the log's statistics are those of the tensors sent."""
    import tritonclient.http as triton

    time.sleep(1.5)  # what others asked is counted
    before, generator = scrape(ran), np.random.default_rng(5)
    client = triton.InferenceServerClient(ran.url("HTTP").removeprefix("http://"))
    x = generator.normal(0, 2, (SENT, BATCH, 1, 28, 28)).astype(np.float32)
    labels, scores = [], []
    for tensor in x:
        asked = triton.InferInput("input", tensor.shape, "FP32").set_data_from_numpy(tensor)
        answer = client.infer("fashion_tensor", [asked], headers={"authorization": ran.key()})
        labels += [name.decode() for name in answer.as_numpy("label").ravel()]
        scores += list(answer.as_numpy("scores"))
    time.sleep(2.5)  # two canaries each
    after = scrape(ran)

    def grown(name: str, *by: str) -> dict[Any, float]:
        counts = total(after, name, *by)
        counts.subtract(total(before, name, *by))
        return {key: value for key, value in counts.items() if value}

    assert grown("engineworks_predictions_total", "pipeline", "class") == {
        ("fashion", name): count for name, count in Counter(labels).items()
    }
    assert grown("engineworks_confidence_count") == {(): SENT * BATCH}
    best = np.max(scores, axis=1).astype(np.float64)
    assert grown("engineworks_confidence_sum")[()] == pytest.approx(best.sum(), rel=1e-6)
    edges = [key for (key,) in total(after, "engineworks_confidence_bucket", "le")]
    expected = {(edge,): float((best <= float(edge) + 1e-7).sum()) for edge in edges}
    assert grown("engineworks_confidence_bucket", "le") == {edge: n for edge, n in expected.items() if n}
    replicas = {sample.labels["replica"] for sample in families(after)["engineworks_predictions"].samples}
    assert replicas == {"triton-0", "triton-1"}

    logged = sorted(live_log(ran)[-SENT * BATCH :], key=lambda each: each["input"]["mean"][0])
    flat = x.reshape(-1, 28 * 28).astype(np.float64)
    order = np.argsort(flat.mean(axis=1))  # two replicas write as they come
    for name in ("mean", "std", "min", "max"):
        found = [each["input"][name][0] for each in logged]
        np.testing.assert_allclose(found, getattr(flat, name)(axis=1)[order], rtol=1e-6)
    assert [each["label"] for each in logged] == [labels[i] for i in order]
    np.testing.assert_allclose([each["scores"] for each in logged], [scores[i] for i in order], rtol=1e-6)
    assert {each["version"] for each in logged} == {read(ran, "live")["version"]}


def test_the_page_says_what_is_live_and_how_canaries_fare(ran: Miniature) -> None:
    text, live = scrape(ran), read(ran, "live")
    names = ("pipeline", "version", "engine", "sha256")
    champion = tuple(str(live[name]) for name in names)
    assert total(text, "engineworks_champion_info", *names)[champion] == 1
    assert total(text, "engineworks_champion_version", "pipeline")[("fashion",)] == live["version"]
    for name, low, high in (("age", 0, 5), ("latency", 0.0001, 1)):
        found = total(text, f"engineworks_canary_{name}_seconds", "pipeline", "replica")
        assert found.keys() == {("fashion", "triton-0"), ("fashion", "triton-1")}
        assert all(low < value < high for value in found.values()), found
    assert total(text, "engineworks_replica_up", "replica") == {("triton-0",): 1, ("triton-1",): 1}
    watched = {(name,) for name in ("triton-0", "triton-1", "door", "prefect", "mlflow", "worker")}
    assert total(text, "engineworks_restarts_total", "service").keys() == watched
    at = total(text, "engineworks_deploy_timestamp_seconds", "pipeline")[("fashion",)]
    assert ran.folder.stat().st_ctime - 3600 < at < time.time()
    assert 'nv_inference_request_success{replica="triton-1",model="fashion"' in text, (
        "the servers' own, named as theirs"
    )
    served = {version for (version,) in total(text, "engineworks_predictions_total", "version")}
    assert served == {str(live["version"])}, "an unloaded version's series are gone"


def test_a_replica_that_hangs_is_told_within_a_second_and_its_series_are_missing(ran: Miniature) -> None:
    server = servers(ran)[1]
    server.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        text = scrape(ran)
        taken = time.monotonic() - begun
    finally:
        server.send_signal(signal.SIGCONT)
    assert taken < 1
    assert total(text, "engineworks_replica_up", "replica") == {("triton-0",): 1, ("triton-1",): 0}
    assert {replica for (replica,) in total(text, "engineworks_predictions_total", "replica")} == {"triton-0"}
    assert total(scrape(ran), "engineworks_replica_up", "replica") == {("triton-0",): 1, ("triton-1",): 1}


def test_nonsense_in_the_place_of_metrics_is_a_replica_that_is_down() -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Nonsense(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html> {")

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Nonsense) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        page = metrics.page(metrics.Seen(), [Address("triton-0", "", "", f"127.0.0.1:{server.server_port}")])
        server.shutdown()
    assert total(page.decode(), "engineworks_replica_up", "replica") == {("triton-0",): 0}


def test_labels_with_quotes_and_braces_come_through() -> None:
    text = '# HELP x_total X\n# TYPE x_total counter\nx_total{class="a\\"} b",le="{"} 3\nx_total 1e-09\n'
    samples = families(metrics.merged({"triton-0": text}))["x"].samples
    assert [(each.labels, each.value) for each in samples] == [
        ({"replica": "triton-0", "class": 'a"} b', "le": "{"}, 3),
        ({"replica": "triton-0"}, 1e-9),
    ]


# What Prometheus itself says.


def test_prometheus_finds_nothing_wrong_with_our_metrics(ran: Miniature, promtool: Path) -> None:
    """Of Triton's own it would like some to be named otherwise."""
    done = subprocess.run([promtool, "check", "metrics"], input=scrape(ran), capture_output=True, text=True)
    complaints = (done.stdout + done.stderr).splitlines()
    assert done.returncode in (0, 3) and [line for line in complaints if not line.startswith("nv_")] == []


def test_prometheus_takes_the_configuration_and_the_alerts(promtool: Path) -> None:
    done = subprocess.run(
        [promtool, "check", "config", ROOT / "infra/observability/prometheus.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


ALERTS: dict[str, tuple[str, str]] = {  # each fires on its first series, at 20 minutes, and not on its second
    "SupervisorDown": ('up{job="engineworks"} 0', 'up{job="engineworks"} 1'),
    "CanaryStale": ("engineworks_canary_age_seconds 31", "engineworks_canary_age_seconds 2"),
    "ReplicaDown": ("engineworks_replica_up 0", "engineworks_replica_up 1"),
    "ReplicaRestarts": ("engineworks_restarts_total 0+0.1", "engineworks_restarts_total 0+0"),
    "LatencyHigh": ("engineworks_canary_latency_seconds 0.3", "engineworks_canary_latency_seconds 0.1"),
    "Errors": (
        'nv_inference_request_failure{reason="BACKEND"} 0+1',
        'nv_inference_request_failure{reason="CANCELED"} 0+1',
    ),
    "QueueGrowing": ("nv_inference_pending_request_count 40+1", "nv_inference_pending_request_count 10+0"),
    "LogOfAnswersDropped": ("engineworks_observed_dropped_total 0+1", "engineworks_observed_dropped_total 7+0"),
}


def test_each_alert_fires_when_it_should_and_not_else(promtool: Path, tmp_path: Path) -> None:
    rules = yaml.safe_load((ROOT / "infra/observability/alerts.yml").read_text())["groups"][0]["rules"]
    assert [rule["alert"] for rule in rules] == list(ALERTS)
    shutil.copy(ROOT / "infra/observability/alerts.yml", tmp_path)
    tests = []
    for (alert, sides), rule in zip(ALERTS.items(), rules, strict=True):
        for side, fires in zip(sides, (True, False), strict=True):
            series, _, value = side.rpartition(" ")
            values = f"{value}x240" if "+" in value else f"{value}+0x240"
            given = [{"series": series, "values": values}]
            if alert == "Errors":
                given.append({"series": "nv_inference_request_success", "values": "0+10x240"})
            query = {
                "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
                "eval_time": "20m",
            }
            query["exp_samples"] = [{"labels": "{}", "value": int(fires)}]  # type: ignore[assignment]
            tests.append({"interval": "5s", "input_series": given, "promql_expr_test": [query]})
        assert rule["annotations"]["summary"]
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump({"rule_files": ["alerts.yml"], "evaluation_interval": "5s", "tests": tests})
    )
    done = subprocess.run([promtool, "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# What the supervisor survives.


def test_a_deploy_waits_for_a_replica_that_was_killed_just_before(ran: Miniature) -> None:
    """And its restart is counted."""
    before = total(scrape(ran), "engineworks_restarts_total", "service")[("triton-1",)]
    servers(ran)[1].send_signal(signal.SIGKILL)
    done = python(
        ran, "from flows import addresses, live; addresses.adopt()\nwith live.fleet() as found: print(len(found))"
    )
    assert done.stdout == "2\n", done.stderr
    time.sleep(1.5)
    text = scrape(ran)
    assert total(text, "engineworks_restarts_total", "service")[("triton-1",)] == before + 1
    assert total(text, "engineworks_replica_up", "replica")[("triton-1",)] == 1


def test_a_half_written_params_yaml_does_not_end_the_supervisor(ran: Miniature) -> None:
    params, log = ran.folder / "params.yaml", ran.folder / ".state/logs/supervisor.log"
    shipped, before = params.read_text(), len(log.read_text())
    params.write_text(shipped.replace("replicas: 2", "replicas: two"))
    try:
        time.sleep(2.5)
    finally:
        params.write_text(shipped)
    said = log.read_text()[before:]
    assert said.count("serving.replicas: ") == 1, said
    time.sleep(1.5)
    ages = total(scrape(ran), "engineworks_canary_age_seconds", "replica")
    assert max(ages.values()) < 3
    Traffic(ran).ask()


def test_a_replica_that_is_only_busy_is_no_patient(ran: Miniature) -> None:
    """No canary is answered within this deadline: that is load while others are answered, and an illness else."""
    code = (
        "from flows import addresses, metrics, replicas, supervisor; addresses.adopt()\n"
        "supervisor.DEADLINE_S, first = 0.0001, replicas.replicas()[0]\n"
        "print(supervisor.complaint('fashion', first, metrics.Seen()))"
    )
    time.sleep(0.5)
    assert "Deadline" in python(ran, code).stdout
    client = Traffic(ran)
    client.start()
    done = python(ran, code)
    client.end()
    assert done.stdout == "None\n" and client.errors == [], done.stdout + done.stderr
