"""What a pod of infra/k8s runs, run without a cluster: its canary before live servers, and all of it in its order."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from flows import serving, ship
from tests import cluster, kubectl, miniature
from tests.conftest import Miniature
from tests.miniature import ROOT
from tests.test_kubernetes import K8S, module, queries, queue_time, triton, until
from tests.test_package import SPEC, inputs, make
from tests.traffic import Traffic

__all__ = ["inputs", "module"]


@contextmanager
def canary(folder: Path, address: str, metrics: str) -> Iterator[int]:
    """Start the canary as a pod does; give its port."""
    (port,) = miniature.free_ports(1)
    container = triton(kubectl.objects("overlays/cpu"))["initContainers"][2]
    moved = {"/code/canary.py": str(K8S / "base" / "canary.py"), "127.0.0.1:8010": address, "127.0.0.1:8012": metrics}
    moved |= {container["args"][0]: str(folder), "8013": str(port), "python3": sys.executable}
    line = [moved.get(each, each) for each in [*container["command"], *container["args"]]]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    try:
        assert until(lambda: told(port, "/metrics") != (0, ""), 10)
        yield port
    finally:
        process.terminate()
        assert process.wait(5) == 0, "a container's first process has to end when it is told"


def told(port: int, path: str) -> tuple[int, str]:
    """Ask the canary; 0 where it does not answer yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def probes(port: int) -> dict[str, bool]:
    """Return what kubelet finds at the addresses of the pod's three probes."""
    container = triton(kubectl.objects("overlays/cpu"))["containers"][0]
    paths = {kind: container[kind]["httpGet"]["path"] for kind in cluster.PROBES}
    return {kind.removesuffix("Probe"): told(port, path)[0] == 200 for kind, path in paths.items()}


def known(system: Miniature, folder: Path, label: str) -> Path:
    """Write what the canary sends to the miniature's servers, and the label that it takes for right."""
    import tritonclient.http as client

    sample = (system.folder / ".state/examples/fashion.png").read_bytes()
    asked = client.InferInput("image", [1, 1], "BYTES").set_data_from_numpy(np.array([[sample]], dtype=object))
    wanted = client.InferRequestedOutput("label", binary_data=False)
    body, size = client.InferenceServerClient.generate_request_body([asked], outputs=[wanted], request_id="canary")
    folder.mkdir(exist_ok=True)
    (folder / "request").write_bytes(bytes(body))
    facts = {"pipeline": "fashion", "engine": "e", "sha256": "0", "header_bytes": size, "right": [label]}
    (folder / "canary.json").write_text(json.dumps(facts))
    return folder


def replica(system: Miniature) -> tuple[str, str]:
    """Return where the miniature's first server answers, and where it gives its metrics."""
    first = int(system.environment["ENGINEWORKS_TRITON_PORT"])
    return f"127.0.0.1:{first}", f"127.0.0.1:{first + 2}"


def test_probes_hold_where_triton_answers_right_and_fail_where_not(ran: Miniature, tmp_path: Path) -> None:
    addresses = replica(ran)
    label = json.loads((ran.folder / ".state/triton/live/fashion.json").read_text())["canary"]
    with canary(known(ran, tmp_path / "right", label), *addresses) as port:
        assert until(lambda: told(port, "/started")[0] == 200, 10)
        assert probes(port) == {"startup": True, "readiness": True, "liveness": True}
        page = told(port, "/metrics")[1]
    assert re.search(r'^engineworks_canary_latency_seconds\{pipeline="fashion"\} 0\.\d+$', page, re.MULTILINE)
    with canary(known(ran, tmp_path / "wrong", "no such class"), *addresses) as port:
        assert until(lambda: f"answered '{label}'; right is no such class" in told(port, "/ready")[1], 10)
        assert probes(port) == {"startup": False, "readiness": False, "liveness": True}


def test_a_triton_that_is_only_busy_is_left_alone(
    ran: Miniature, module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our question hangs, as behind a long queue: that is load while others are answered, and an illness else."""
    monkeypatch.setattr(module, "DEADLINE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = module.Canary(known(ran, tmp_path, ""), f"127.0.0.1:{silent.getsockname()[1]}", replica(ran)[1])
        assert until(lambda: "no answer within" in found.look(), 20), "what the supervisor asks is no load"
        client = Traffic(ran)
        client.start()
        try:
            assert until(lambda: found.look() == "", 20) and found.look() == ""
        finally:
            client.end()


def test_the_dashboard_and_the_adapter_ask_for_metrics_that_exist(ran: Miniature) -> None:
    with urllib.request.urlopen(f"{ran.url('METRICS')}/metrics", timeout=5) as answer:
        page = answer.read().decode()
    there = set(re.findall(r"^(\w+)[{ ]", page, re.MULTILINE))
    asked = {name for query in [*queries(), queue_time()[1]] for name in re.findall(r"\b(?:nv|engineworks)_\w+", query)}
    assert {name for name in asked - there if not name.startswith("nv_gpu_")} == set() and len(asked) > 15


# All of a pod.


PYTHON = {  # in the place of backends that the server here lacks: the same files, loaded by the same libraries
    "preprocess": """
import pathlib, numpy as np, triton_python_backend_utils as pb
from nvidia.dali import Pipeline
class TritonPythonModel:
    def initialize(self, args):
        graph = pathlib.Path(__file__).with_name("model.dali").read_bytes()
        options = {"exec_async": False, "exec_pipelined": False, "prefetch_queue_depth": 1, "device_id": None}
        self.graph = Pipeline.deserialize(graph, batch_size=16, num_threads=1, **options)
        self.graph.build()
    def execute(self, requests):
        return [self.answer(pb.get_input_tensor_by_name(each, "image").as_numpy()) for each in requests]
    def answer(self, samples):
        self.graph.feed_input("image", list(samples))
        return pb.InferenceResponse([pb.Tensor("input", np.array(self.graph.run()[0].as_array()))])
""",
    "engine": """
import pathlib, onnxruntime, triton_python_backend_utils as pb
class TritonPythonModel:
    def initialize(self, args):
        self.session = onnxruntime.InferenceSession(str(pathlib.Path(__file__).with_name("model.onnx")))
    def execute(self, requests):
        return [self.answer(pb.get_input_tensor_by_name(each, "input").as_numpy()) for each in requests]
    def answer(self, x):
        return pb.InferenceResponse([pb.Tensor("logits", self.session.run(["logits"], {"input": x})[0])])
""",
}


def picture() -> bytes:
    """Draw a picture that leaves the toy network no doubt."""
    pixels = np.random.default_rng(5).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def store(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a toy's package: as shipped, but for the two backends."""
    from safetensors.numpy import save_file

    from tasks.modalities.image import preprocess

    with tarfile.open(inputs["prepare"] / "golden.tar", "w") as tar:
        member = tarfile.TarInfo("0000.sample")
        member.size = len(picture())
        tar.addfile(member, io.BytesIO(picture()))
    tensors = preprocess.run(preprocess.serving_pipeline(SPEC, 1), [picture()])
    save_file({"input": tensors, "label": np.array([1])}, inputs["prepare"] / "golden.safetensors")
    make(inputs, tmp_path / "packages" / "toy")
    monkeypatch.setattr(ship, "PACKAGES", tmp_path / "packages")
    ship.ship("toy", tmp_path / "store")
    folder = next((tmp_path / "store" / "toy").iterdir())
    for part, code in PYTHON.items():
        config = folder / "container" / f"toy_{part}" / "config.pbtxt"
        text = re.sub('backend: "dali"|platform: "onnxruntime_onnx"', 'backend: "python"', config.read_text())
        config.write_text(text)
        (config.parent / "1" / "model.py").write_text(code)
    return folder


class Pod:
    """The containers of a rendered pod as processes here: addresses and folders replaced, nothing else."""

    def __init__(self, store: Path, folder: Path) -> None:
        """Take a package for what the overlay names."""
        self.spec = triton(kubectl.objects("overlays/cpu"))
        self.ports = dict(zip(("8010", "8011", "8012", "8013"), map(str, miniature.free_ports(4)), strict=True))
        self.named = {"PIPELINE": "toy", "PACKAGE": store.name, "ENGINE": "model.onnx"}
        self.folders = {"/store": str(store.parents[1]), "/facts": str(folder), "/code": str(K8S / "base")}
        server = (serving.SERVING / "triton/pytriton/tritonserver/bin/tritonserver").resolve()
        listen = " ".join(f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics"))
        own = f'exec {server} --backend-directory={(serving.SERVING / "backends").absolute()} {listen} "$@"'
        (folder / "bin").mkdir()
        for name, line in (("tritonserver", own), ("python", f'exec {sys.executable} "$@"')):
            (folder / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
            (folder / "bin" / name).chmod(0o755)
        ours = serving.environment()
        self.environment = ours | self.named | {"PATH": f"{folder / 'bin'}:{ours['PATH']}", "PYTHONPATH": str(ROOT)}

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a container."""
        given = next(each for each in cluster.containers({"spec": self.spec}) if each["name"] == name)
        line = [self.local(word) for word in [*given["command"], *given.get("args", [])]]
        return subprocess.Popen(line, env=self.environment, cwd=ROOT, start_new_session=True)

    def local(self, word: str) -> str:
        """Put this machine's folders and ports, and the package's names, into a word."""
        for old, new in (self.folders | self.ports).items():
            word = word.replace(old, new)
        return re.sub(r"\$\((\w+)\)", lambda found: self.named.get(found[1], found[0]), word)

    def told(self, port: str, path: str, body: bytes | None = None) -> int:
        """Ask at a container's port."""
        asked = urllib.request.Request(f"http://127.0.0.1:{self.ports[port]}{path}", body)
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


@pytest.mark.slow
def test_a_pod_is_ready_while_it_answers_right_and_not_when_only_its_health_is_good(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own command lines, in their order, around the real server; the canary alone tells a dead engine."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "pod").mkdir()
    pod, running = Pod(store, tmp_path / "pod"), list[subprocess.Popen[bytes]]()
    try:
        assert pod.start("runtimes").wait(30) == 0
        assert pod.start("passport").wait(60) == 3, "there is no Triton image around runtimes.py here"
        (tmp_path / "pod" / "runtimes.json").write_text('{"onnxruntime": "99.0", "tensorrt": null}')
        assert pod.start("passport").wait(60) == 0
        running += [pod.start("canary"), pod.start("triton")]
        canary, server = running
        assert until(lambda: pod.told("8013", "/started") == 200, 60)
        assert [pod.told("8013", path) for path in ("/ready", "/live")] == [200, 200]
        for path in ("/v2/repository/index", "/v2/systemsharedmemory/register", "/v2/trace/setting"):
            assert pod.told("8010", path, b"{}") == 403, path
        stub = next(
            each for each in psutil.Process(server.pid).children(True) if "toy_engine" in " ".join(each.cmdline())
        )
        stub.send_signal(signal.SIGKILL)
        assert until(lambda: pod.told("8013", "/ready") == 503, 15)
        assert pod.told("8010", "/v2/health/ready") == 200, "the server itself says that all is well"
        server.terminate()
        assert server.wait(40) is not None
        canary.terminate()
        assert canary.wait(5) == 0
    finally:
        for each in running:
            if each.poll() is None:
                os.killpg(each.pid, signal.SIGKILL)
