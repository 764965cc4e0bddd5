"""infra/k8s as kustomize renders it: valid, narrow, whole; its probes and its door's last words, run for real."""

import http.client
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import check, serving, ship
from flows.replicas import HEADER
from tests import cluster, kubectl, miniature
from tests.cluster import complaints, find, named
from tests.miniature import ROOT
from tests.test_package import inputs, make
from tests.test_yy_envoy import ENVOY, program

__all__ = ["inputs"]
K8S, OBSERVABILITY = ROOT / "infra" / "k8s", ROOT / "infra" / "observability"
OVERLAYS = ("overlays/cpu", "overlays/gpu")
PATHS = {  # who may begin to talk to whom; nobody else to nobody
    ("any namespace, engineworks/client=true", "app=door", 8000),
    ("any namespace, engineworks/client=true", "app=door", 8001),
    ("ingress-nginx", "app=door", 8000),
    ("ingress-nginx", "app=door", 8001),
    ("app=door", "app=triton", 8010),
    ("app=door", "app=triton", 8011),
    ("app=door", "kube-system, k8s-app=kube-dns", 53),
    ("monitoring", "app=triton", 8012),
    ("monitoring", "app=triton", 8013),
}


# What is rendered.


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_has_nothing_wrong(overlay: str) -> None:
    objects = kubectl.objects(overlay)
    assert complaints(objects) == [] and list(cluster.schema(objects, cluster.OLDEST)) == []


def triton(objects: list[Any]) -> Any:
    return find(objects, "Deployment", "triton")["spec"]["template"]["spec"]


def put(path: str, value: Any, kind: str = "Deployment", name: str = "triton") -> Callable[[list[Any]], None]:
    """Return what sets a field, given as in `spec.containers.0.image`; None takes it away."""

    def spoil(objects: list[Any]) -> None:
        *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
        place: Any = find(objects, kind, name)
        for step in steps:
            place = place[step]
        if value is None:
            del place[last]
        else:
            place[last] = value

    return spoil


def without(kind: str, name: str) -> Callable[[list[Any]], None]:
    """Return what takes an object away whose name has a hash."""
    return lambda objects: objects.remove(named(objects, kind, name))


POD = "spec.template.spec"
NARROW = f"{POD}.containers.0.securityContext"
SPOILT: dict[str, tuple[Callable[[list[Any]], None], str]] = {
    "a misspelt field": (put(f"{POD}.containers.0.imagePulPolicy", "Always"), "imagePulPolicy"),
    "a value of the wrong type": (put(f"{POD}.terminationGracePeriodSeconds", "soon"), "'soon' is not of type"),
    "an unknown field of a policy": (put("spec.ingres", [], "NetworkPolicy", "door"), "ingres"),
    "root": (put(f"{POD}.securityContext.runAsUser", 0), "triton/triton: may run as root"),
    "root, in one container": (
        put(f"{POD}.initContainers.1.securityContext.runAsUser", 0),
        "passport: may run as root",
    ),
    "no seccomp profile": (put(f"{POD}.securityContext.seccompProfile", None), "seccomp"),
    "a writable root": (put(f"{NARROW}.readOnlyRootFilesystem", False), "can write"),
    "a capability": (put(f"{NARROW}.capabilities.add", ["NET_ADMIN"]), "has capabilities"),
    "privileges": (put(f"{NARROW}.allowPrivilegeEscalation", True), "may gain privileges"),
    "a token": (put(f"{POD}.automountServiceAccountToken", None), "token"),
    "the node's network": (put(f"{POD}.hostNetwork", True), "shares something of its node"),
    "a folder of the node": (put(f"{POD}.volumes.3", {"name": "scratch", "hostPath": {"path": "/"}}), "another kind"),
    "no memory limit": (put(f"{POD}.containers.0.resources.limits.memory", None), "no limits"),
    "the newest image": (put(f"{POD}.containers.0.image", "tritonserver:latest"), "names no version"),
    "another pod's selector": (put("spec.selector.matchLabels.app", "tritan"), "not that of its own pods"),
    "a Service of nobody": (put("spec.selector.app", "tritan", "Service", "triton"), "Service triton: selects no pod"),
    "a Service's port": (put("spec.ports.0.targetPort", "htp", "Service", "door"), "port http is in no container"),
    "a mapped headless port": (put("spec.ports.0.port", 80, "Service", "triton"), "maps no port 80"),
    "a probe's port": (put(f"{POD}.containers.0.livenessProbe.httpGet.port", 8014), "asks at port 8014"),
    "no rules": (without("ConfigMap", "door"), "Deployment door: no ConfigMap door-"),
    "no package": (without("ConfigMap", "package"), "Deployment triton: no ConfigMap package-"),
    "no store": (put(f"{POD}.volumes.1.persistentVolumeClaim.claimName", "stor"), "PersistentVolumeClaim stor"),
    "a variable of nobody": (put(f"{POD}.initContainers.1.args", ["/store/$(PACKAGES)"]), "no variable PACKAGES"),
    "a rollout with a gap": (put("spec.strategy.rollingUpdate.maxUnavailable", 1), "takes pods away"),
    "no budget": (put("spec.selector.matchLabels.app", "door", "PodDisruptionBudget", "triton"), "has no budget"),
    "an autoscaler of nobody": (
        put("spec.scaleTargetRef.name", "tritan", "HorizontalPodAutoscaler", "triton"),
        "no Deployment tritan",
    ),
    "a number beside the autoscaler": (put("spec.replicas", 3), "a number of replicas of its own"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_manifest_is_told(kind: str) -> None:
    objects = kubectl.objects("overlays/gpu")
    spoil, sentence = SPOILT[kind]
    spoil(objects)
    found = complaints(objects)
    assert any(sentence in each for each in found), found


def test_a_spoilt_file_is_told(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "infra", tmp_path / "infra")
    path = tmp_path / "infra/k8s/base/triton.yaml"
    path.write_text(path.read_text().replace("terminationGracePeriodSeconds", "terminationGraceSeconds"))
    done = subprocess.run(
        [kubectl.kubectl(), "kustomize", tmp_path / "infra/k8s/overlays/cpu"], capture_output=True, text=True
    )
    assert any("terminationGraceSeconds" in each for each in complaints(list(yaml.safe_load_all(done.stdout))))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nobody_talks_to_anybody_but_on_declared_paths(overlay: str) -> None:
    objects = kubectl.objects(overlay)
    assert find(objects, "NetworkPolicy", "nobody")["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    assert cluster.open_paths(objects) == PATHS
    spoilt = find(objects, "NetworkPolicy", "triton")
    spoilt["spec"]["egress"] = [{}]
    assert cluster.open_paths(objects) - PATHS == {("app=triton", "everybody", 0)}


def test_an_engine_loads_after_its_passport_was_checked_on_what_loads_it() -> None:
    for overlay in OVERLAYS:
        pod = triton(kubectl.objects(overlay))
        assert [each["name"] for each in pod["initContainers"]] == ["runtimes", "passport", "canary"]
        runtimes, passport, canary = pod["initContainers"]
        assert "restartPolicy" not in passport and canary["restartPolicy"] == "Always"
        assert runtimes["image"] == pod["containers"][0]["image"]
        assert passport["command"] + passport["args"] == [
            *("python", "-m", "flows.cli", "check", "--runtimes", "/facts/runtimes.json"),
            "/store/$(PIPELINE)/$(PACKAGE)/container/$(PIPELINE)_engine/1/$(ENGINE)",
        ]


def test_the_gpu_overlay_asks_for_one_gpu_of_the_kind_the_plan_is_for() -> None:
    pod = triton(kubectl.objects("overlays/gpu"))
    asking = [each["name"] for each in cluster.containers({"spec": pod}) if "nvidia.com/gpu" in str(each["resources"])]
    assert asking == ["runtimes", "passport", "triton"] and pod["runtimeClassName"] == "nvidia"
    assert "gpu.product" in json.dumps(pod["affinity"]) and pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert "gpu" not in json.dumps(triton(kubectl.objects("overlays/cpu")))


def test_whoever_is_answered_is_answered_before_a_pod_ends() -> None:
    objects = kubectl.objects("overlays/cpu")
    answer_s = yaml.safe_load((ROOT / "params.yaml").read_text())["serving"]["timeout_s"]
    pod = triton(objects)
    wait_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    exit_s = int(re.findall(r"--exit-timeout-secs=(\d+)", pod["containers"][0]["args"][0])[0])
    assert exit_s > answer_s and pod["terminationGracePeriodSeconds"] > wait_s + exit_s
    door = find(objects, "Deployment", "door")["spec"]["template"]["spec"]
    drain_s = int(door["containers"][0]["args"][door["containers"][0]["args"].index("--drain-time-s") + 1])
    wait_s = int(re.findall(r"sleep (\d+)", str(door["containers"][0]["lifecycle"]))[0])
    assert wait_s > drain_s + answer_s and door["terminationGracePeriodSeconds"] > wait_s


# The door.


def test_the_door_has_the_rules_of_infra_door_and_finds_its_servers() -> None:
    objects = kubectl.objects("overlays/cpu")
    assert named(objects, "ConfigMap", "door")["data"]["envoy.yaml"] == (ROOT / "infra/door/envoy.yaml").read_text()
    headless = find(objects, "Service", "triton")
    for each in ENVOY["static_resources"]["clusters"]:
        place = each["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
        assert place["address"] == headless["metadata"]["name"] and each["type"] == "STRICT_DNS"
        assert place["port_value"] in {port["port"] for port in headless["spec"]["ports"]}
    door = {each["name"]: each["port"] for each in find(objects, "Service", "door")["spec"]["ports"]}
    listeners = ENVOY["static_resources"]["listeners"]
    assert door == {each["name"]: each["address"]["socket_address"]["port_value"] for each in listeners}


def test_the_door_tells_its_clients_to_go_before_it_ends(tmp_path: Path) -> None:
    """Envoy with the pod's own command line and rules; then its preStop, while a client keeps a connection."""
    objects = kubectl.objects("overlays/cpu")
    container = find(objects, "Deployment", "door")["spec"]["template"]["spec"]["containers"][0]
    http_port, grpc_port, admin = miniature.free_ports(3)
    text = named(objects, "ConfigMap", "door")["data"]["envoy.yaml"].replace("/etc/engineworks", str(tmp_path))
    for wanted, given in (("8000", http_port), ("8001", grpc_port)):
        text = text.replace(f"0.0.0.0, port_value: {wanted}", f"127.0.0.1, port_value: {given}")
    (tmp_path / "envoy.yaml").write_text(text.replace("address: triton", "address: 127.0.0.1"))
    shutil.copy(ROOT / "infra/door/keys.example.yaml", tmp_path / "keys.yaml")
    moved = {"/etc/envoy/envoy.yaml": str(tmp_path / "envoy.yaml")}
    line = [moved.get(each, each).replace("9901", str(admin)) for each in container["args"]]
    process = subprocess.Popen([program(), *line, "--log-level", "error"], stderr=subprocess.DEVNULL)
    try:
        client = http.client.HTTPConnection("127.0.0.1", http_port, timeout=10)
        assert until(lambda: kept(client) is True, 20)
        before = [kept(client) for _ in range(20)]
        stop = container["lifecycle"]["preStop"]["exec"]["command"]
        done = subprocess.run(
            [each.replace("9901", str(admin)).replace("sleep 55", "") for each in stop], capture_output=True, text=True
        )
        assert "200 OK" in done.stdout and all(before), done
        assert until(lambda: kept(client) is False, 25), "asked again and again, it says: close"
    finally:
        process.terminate()
        process.wait()


def kept(client: http.client.HTTPConnection) -> bool | None:
    """Ask the door for something; tell whether the connection stays, None where nothing answers."""
    try:
        client.request("GET", "/v2/models/stats")
        answer = client.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        client.close()
        return None
    return answer.getheader("connection") != "close"


def until(is_so: Callable[[], bool], within_s: float) -> bool:
    """Wait for something; tell whether it came."""
    deadline = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_triton_keeps_its_control_from_everybody() -> None:
    text = triton(kubectl.objects("overlays/cpu"))["containers"][0]["args"][0]
    assert f"rule={serving.RESTRICTED}\n" in text and f":{HEADER}=$(" in text


# What Prometheus says.


def test_alerts_and_dashboard_have_one_home() -> None:
    objects = kubectl.objects("monitoring")
    assert list(cluster.schema(objects, cluster.OLDEST)) == []
    for name, file in (("alerts", "alerts.yml"), ("dashboard", "dashboard.json")):
        assert find(objects, "ConfigMap", name)["data"][file] == (OBSERVABILITY / file).read_text()
    assert {each["metadata"]["namespace"] for each in objects} == {"monitoring"} <= {who for who, _, _ in PATHS}
    assert find(objects, "ConfigMap", "dashboard")["metadata"]["labels"]["grafana_dashboard"] == "1"


META = "__meta_kubernetes"


def pod(name: str, app: str, port: str, phase: str = "Running") -> dict[str, Any]:
    """Return a port of a pod as Kubernetes tells Prometheus of it, its number by its name."""
    number = {"http": 8010, "metrics": 8012, "canary": 8013}[port]
    labels = {"namespace": "engineworks", "pod_name": name, "pod_label_app": app, "pod_phase": phase}
    labels = {f"{META}_{key}": value for key, value in labels.items()} | {f"{META}_pod_container_port_name": port}
    return {"targets": [f"{name}:{number}"], "labels": labels}


def test_prometheus_scrapes_each_pod_by_its_name(promtool: Path, tmp_path: Path) -> None:
    """Debian's Prometheus can't ask Kubernetes: what that would say stands in its place."""
    objects = kubectl.objects("monitoring")
    files = find(objects, "ConfigMap", "alerts")["data"] | find(objects, "ConfigMap", "scrape")["data"]
    config = yaml.safe_load(files["prometheus.yml"])
    (job,) = config["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod", "namespaces": {"names": ["engineworks"]}}]
    scraped = [pod("triton-a", "triton", "metrics"), pod("triton-a", "triton", "canary")]
    others = [pod("triton-a", "triton", "http"), pod("door-a", "door", "metrics")]
    job["static_configs"] = [*scraped, *others, pod("triton-b", "triton", "metrics", "Succeeded")]
    for name, text in (files | {"prometheus.yml": yaml.safe_dump(config)}).items():
        (tmp_path / name).write_text(text)
    line = [promtool, "check", "config", tmp_path / "prometheus.yml"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0 and "FAILED" not in done.stdout, done.stdout + done.stderr
    line = [promtool, "check", "service-discovery", "--timeout=1s", tmp_path / "prometheus.yml", job["job_name"]]
    found = json.loads(subprocess.run(line, capture_output=True, text=True).stdout)
    names = ("__address__", "job", "namespace", "pod", "replica")
    assert [{name: each["labels"][name] for name in names} for each in found if each.get("labels")] == [
        dict(zip(names, (address, "engineworks", "engineworks", "triton-a", "triton-a"), strict=True))
        for address in ("triton-a:8012", "triton-a:8013")
    ]
    assert set(re.findall(r'job="(\w+)"', files["alerts.yml"])) == {job["job_name"]}


def queue_time() -> tuple[str, str]:
    """Return the name and the query of what the autoscaler asks for, as the adapter fills it in for pods."""
    (rule,) = yaml.safe_load((K8S / "monitoring" / "adapter.yml").read_text())["rules"]
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod")
    return rule["name"]["as"], query.replace("<<.LabelMatchers>>", 'namespace="engineworks",pod=~"triton-.+"')


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    """Return an input of promtool's tests."""
    inside = ",".join(f'{key}="{value}"' for key, value in ({"namespace": "engineworks"} | labels).items())
    return {"series": f"{name}{{{inside}}}", "values": values}


def test_rules_for_the_cluster_count_what_they_should(promtool: Path, tmp_path: Path) -> None:
    """100 requests a second that wait 3 ms in each part are 6,000 us; a pod that is down for long is an alert."""
    name, query = queue_time()
    objects = kubectl.objects("overlays/cpu")
    asked = find(objects, "HorizontalPodAutoscaler", "triton")["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert asked == name
    shutil.copy(OBSERVABILITY / "alerts.yml", tmp_path)
    shutil.copy(K8S / "monitoring" / "recorded.yml", tmp_path)
    given = []
    for name, rate in (("triton-a", 500), ("triton-idle", 1)):
        given += [
            series("nv_inference_queue_duration_us", f"0+{rate * 3000}x400", pod=name, model=f"fashion_{part}")
            for part in ("engine", "preprocess")
        ]
        given += [
            series("nv_inference_request_success", f"0+{rate}x400", pod=name, model=model)
            for model in ("fashion", "fashion_engine", "fashion_preprocess")
        ]
    for pod, ready in (("triton-a", "1"), ("triton-down", "0"), ("triton-new", "0")):
        given.append(series("kube_pod_status_ready", f"{ready}x400", pod=pod, condition="true"))
        given.append(series("up", f"{ready}x400", pod=pod, job="engineworks", instance=f"{pod}:8012"))
        given.append(series("kube_pod_start_time", f"{1500 if pod == 'triton-new' else 0}x400", pod=pod))
    for deployment, available in (("triton", "1"), ("door", "0")):
        given.append(series("kube_deployment_status_replicas_available", f"{available}x400", deployment=deployment))
    given.append(series("kube_pod_container_status_restarts_total", "0+0.1x400", pod="triton-a", container="triton"))
    given.append(series("kube_pod_container_status_restarts_total", "0+0.1x400", pod="triton-b", container="canary"))
    wanted = {
        f"round({query})": [({"pod": "triton-a"}, 6000), ({"pod": "triton-idle"}, 1200)],
        'ALERTS{alertname="ReplicaDown",alertstate="firing"}': [({"replica": "triton-down"}, 1)],
        'ALERTS{alertname="SupervisorDown",alertstate="firing"}': [({"pod": "triton-down"}, 1)],
        'ALERTS{alertname="DeploymentDown",alertstate="firing"}': [({"deployment": "door"}, 1)],
        'ALERTS{alertname="ReplicaRestarts",alertstate="firing"}': [({"service": "triton-a"}, 1)],
    }
    tests = []
    for expression, samples in wanted.items():
        label = next(iter(samples[0][0]))
        found = [{"labels": f'{{{label}="{row[label]}"}}', "value": value} for row, value in samples]
        tests.append({"expr": f"sum by ({label}) ({expression})", "eval_time": "30m", "exp_samples": found})
    content = {"rule_files": ["alerts.yml", "recorded.yml"], "evaluation_interval": "5s"}
    content["tests"] = [{"interval": "5s", "input_series": given, "promql_expr_test": tests}]
    (tmp_path / "test.yml").write_text(yaml.safe_dump(content))
    done = subprocess.run([promtool, "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def queries() -> list[str]:
    """Return what the dashboard asks, with something in the place of Grafana's variables."""
    board = json.loads((OBSERVABILITY / "dashboard.json").read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    found += [each["expr"] for each in board["annotations"]["list"]]
    return [each.replace("${pipeline}", "fashion").replace("${replica}", ".+") for each in found]


def test_the_dashboard_asks_what_prometheus_understands(promtool: Path, tmp_path: Path) -> None:
    rules = [{"record": f"asked_{number}", "expr": query} for number, query in enumerate(queries())]
    (tmp_path / "asked.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", tmp_path / "asked.yml"], capture_output=True, text=True)
    assert done.returncode == 0 and "${" not in (tmp_path / "asked.yml").read_text(), done.stdout + done.stderr


# What a pod runs.


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The canary's code, imported."""
    monkeypatch.syspath_prepend(K8S / "base")
    import canary

    yield canary
    del sys.modules["canary"]


def test_a_triton_that_is_gone_fails_every_probe(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "request").write_bytes(b"")
    (tmp_path / "canary.json").write_text(json.dumps({"pipeline": "toy", "header_bytes": 0, "right": ["0"]}))
    nowhere = f"127.0.0.1:{miniature.free_ports(1)[0]}"
    found = module.Canary(tmp_path, nowhere, nowhere)
    found.complaint = found.look()
    assert "ConnectionRefusedError" in found.complaint
    assert [found.page(path)[0] for path in ("/started", "/ready", "/live")] == [503, 503, 200]
    monkeypatch.setattr(module, "LIVE_S", 0.0)
    assert found.page("/live")[0] == 503


@pytest.mark.parametrize(
    ("given", "is_right"),
    [("4.5:2:dog", True), ("4.5:2", True), ("4.5:1:cat", False), ("nan:2:dog", False), ("4.5:2:dog:b", False)],
)
def test_only_the_known_class_is_right(module: Any, tmp_path: Path, given: str, is_right: bool) -> None:
    (tmp_path / "request").write_bytes(b"")
    (tmp_path / "canary.json").write_text(json.dumps({"right": ["2:dog", "2"]}))
    assert module.Canary(tmp_path, "", "").is_right(given) is is_right


def test_runtimes_are_what_the_libraries_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's own library, and that of TensorRT for RTX, which has TensorRT's function."""
    import onnxruntime

    monkeypatch.syspath_prepend(K8S / "base")
    import runtimes

    place = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime.so.{onnxruntime.__version__}"
    assert runtimes.found(runtimes.onnxruntime, str(place)) == onnxruntime.__version__
    rtx = next(path for path in Path(sys.prefix).rglob("libtensorrt_rtx.so*"))
    assert importlib.metadata.version("tensorrt-rtx-cu13-libs").startswith(runtimes.found(runtimes.tensorrt, str(rtx)))
    assert runtimes.found(runtimes.tensorrt, "libno.so") is None
    del sys.modules["runtimes"]


@pytest.fixture
def store(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with one package of a toy, shipped."""
    make(inputs, tmp_path / "packages" / "toy")
    monkeypatch.setattr(ship, "PACKAGES", tmp_path / "packages")
    assert ship.ship("toy", tmp_path / "store") == 0
    return tmp_path / "store" / "toy" / json.loads((tmp_path / "packages/toy/package.json").read_text())["sha256"]


def test_what_is_shipped_is_the_package_and_the_engines_own_answer(store: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "packages" / "toy").rglob("*"):
        assert path.is_dir() or (store / path.relative_to(tmp_path / "packages/toy")).read_bytes() == path.read_bytes()
    facts = json.loads((store / "canary" / "canary.json").read_text())
    body, size = (store / "canary" / "request").read_bytes(), facts["header_bytes"]
    assert facts["right"] == ["0:cat", "0"] and facts["sha256"] == store.name  # all logits of its sample are 0
    assert json.loads(body[:size])["inputs"][0]["shape"] == [1, 3] and body[size:] == b"png"


def test_an_engine_that_no_container_takes_is_not_shipped(store: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "packages/toy/container")
    with pytest.raises(ValueError, match="no container/, since NVIDIA's Triton has no backend for onnxruntime-fp32"):
        ship.ship("toy", tmp_path / "other")
    with pytest.raises(ValueError, match="run the pipeline first"):
        ship.ship("none", tmp_path / "other")


@pytest.mark.parametrize(
    ("runtimes", "code", "sentence"),
    [
        ('{"onnxruntime": "99.1", "tensorrt": null}', 0, "load"),
        ('{"onnxruntime": "1.2", "tensorrt": "10.1.0"}', check.REFUSED, "the target has 1.2"),
        ('{"onnxruntime": null}', check.REFUSED, "the target has no ONNX Runtime"),
    ],
)
def test_a_passport_is_checked_against_another_containers_runtimes(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], runtimes: str, code: int, sentence: str
) -> None:
    (tmp_path / "runtimes.json").write_text(runtimes)
    engine = store / "container/toy_engine/1/model.onnx"
    assert check.check(engine, None, False, tmp_path / "runtimes.json") == code
    assert sentence in capsys.readouterr().out
    (tmp_path / "runtimes.json").write_text("[]")
    with pytest.raises(ValueError, match="no versions of runtimes"):
        check.check(engine, None, False, tmp_path / "runtimes.json")


def test_the_readme_makes_what_no_overlay_has() -> None:
    text = (K8S / "README.md").read_text()
    assert all(f"secret {kind} {name}" in text for name, kind in (("door-keys", "generic"), ("door-tls", "tls")))
    assert {name for _, name in cluster.BEFORE} == {"door-keys", "door-tls"}
