"""What the doctor says is so, fits the terminal and leaves no trace."""

import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from flows import addresses, checkout
from flows.doctor import doctor, examine
from flows.finding import Finding
from flows.machine import WORTH, libraries
from tasks.target import INSTRUCTION_SETS
from tests.miniature import ROOT, free_ports

# A stand-in for NVIDIA's driver library: two GPUs, or the error in $CUDA_ERROR.
DRIVER = """
#include <stdlib.h>
#include <string.h>
int cuInit(unsigned flags) { char *e = getenv("CUDA_ERROR"); return e ? atoi(e) : 0; }
int cuGetErrorName(int e, const char **name) { *name = "CUDA_ERROR_NO_DEVICE"; return 0; }
int cuDriverGetVersion(int *v) { *v = 13010; return 0; }
int cuDeviceGetCount(int *n) { *n = 2; return 0; }
int cuDeviceGet(int *d, int i) { *d = i + 40; return 0; }
int cuDeviceGetName(char *s, int n, int d) { strncpy(s, d == 41 ? "Second" : "First", n); return 0; }
int cuDeviceTotalMem_v2(size_t *b, int d) { *b = d == 41 ? 85000000000 : 24000000000; return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : a == 76 ? 9 : -1; return 0; }
"""


class Triton(BaseHTTPRequestHandler):
    """Answers health checks; of the models, only `shop` is ready."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path in ("/v2/health/live", "/v2/models/shop/ready") else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a small checkout without state, whose packages are as locked and whose ports are free."""
    for name in ("pyproject.toml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    lock = "".join(f"{name}=={importlib.metadata.version(name).split('+')[0]}\n" for name in ("psutil", "pydantic"))
    (tmp_path / "requirements.lock").write_text(lock)
    monkeypatch.chdir(tmp_path)
    for name, port in zip(addresses.PORTS, free_ports(len(addresses.PORTS)), strict=True):
        monkeypatch.setenv(addresses.variable(name), str(port))
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def taken(here: Path) -> Iterator[socket.socket]:
    """Listen on MLflow's port, and never answer."""
    with socket.create_server((addresses.HOST, addresses.port("MLFLOW"))) as listener:
        yield listener


def finding(area: str, name: str) -> Finding:
    return next(each for each in examine() if (each.area, each.name) == (area, name))


def problems() -> set[str]:
    return {each.name for each in examine() if each.state == "problem"}


def running(folder: Path, name: str) -> None:
    """Let this process pass for one of our servers."""
    (folder / ".state" / "pids").mkdir(parents=True, exist_ok=True)
    mark = {"pid": os.getpid(), "created": psutil.Process().create_time()}
    (folder / ".state" / "pids" / f"{name}.json").write_text(json.dumps(mark))


def test_a_checkout_in_order_has_no_problem_and_all_else_says_what_to_do(here: Path) -> None:
    found = examine()
    assert {each.area for each in found} == {"versions", "cpu", "gpu", "backends", "ports", "servers", "disk"}
    assert not [each for each in found if each.state == "problem" and each.area not in ("gpu", "disk")]
    assert [each for each in found if each.state == "note"]
    assert all(bool(each.remedy) == (each.state != "ok") for each in found)


def test_a_package_that_is_not_as_locked_is_named_with_the_remedy(here: Path) -> None:
    (here / "requirements.lock").write_text("psutil==0.0.1\npydantic==" + importlib.metadata.version("pydantic"))
    assert finding("versions", "packages").value == "1 packages as locked"
    found = finding("versions", "psutil")
    assert found.value == f"{importlib.metadata.version('psutil')} installed, 0.0.1 locked"
    assert found.remedy == "rm -f .venv/ready; make setup"
    assert doctor(as_json=False) == 1


def test_a_missing_package_and_another_python_are_problems(here: Path) -> None:
    with (here / "requirements.lock").open("a") as lock:
        lock.write("no-such-package==1.0\n")
    (here / "pyproject.toml").write_text('[project]\nrequires-python = ">=3.8,<3.10"\n')
    assert finding("versions", "no-such-package").value == "not installed, 1.0 locked"
    assert "wanted >=3.8,<3.10" in finding("versions", "python").value
    assert problems() >= {"no-such-package", "python"}


def test_a_build_suffix_is_no_deviation(here: Path) -> None:
    (here / "requirements.lock").write_text(f"torch=={importlib.metadata.version('torch').split('+')[0]}\n")
    assert finding("versions", "packages").value == "1 packages as locked"


def test_a_taken_port_is_named_with_its_variable(taken: socket.socket) -> None:
    found = finding("ports", "mlflow")
    assert found.state == "problem" and str(taken.getsockname()[1]) in found.value
    assert "ENGINEWORKS_MLFLOW_PORT" in found.remedy
    assert finding("ports", "prefect").value.endswith("free")


def test_the_port_of_a_server_that_is_not_ours_to_start_may_be_taken(
    taken: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@127.0.0.1/runs")
    assert finding("ports", "mlflow").state == "ok"
    assert finding("servers", "mlflow").value.startswith("yours")
    assert "secret" not in str(examine())


@pytest.mark.parametrize("value", ["http", "70000", "0"])
def test_a_wrong_port_is_a_problem_and_the_rest_is_examined(
    here: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ENGINEWORKS_PREFECT_PORT", value)
    found = finding("ports", "prefect")
    assert found.state == "problem" and f"'{value}'" in found.value and "ENGINEWORKS_PREFECT_PORT" in found.remedy
    assert finding("ports", "mlflow").state == "ok" and finding("disk", "checkout")
    assert "ENGINEWORKS_PREFECT_PORT" in finding("servers", "servers").value


def test_one_port_for_two_servers_is_a_problem(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEWORKS_GRPC_PORT", str(addresses.port("HTTP")))
    assert problems() == {"http", "grpc"}


def test_a_server_that_hangs_is_seen_within_two_seconds(here: Path, taken: socket.socket) -> None:
    running(here, "mlflow")
    started = time.monotonic()
    found = finding("servers", "mlflow")
    assert time.monotonic() - started < 2
    assert found.state == "problem" and "no answer" in found.value and "mlflow.log" in found.remedy
    assert finding("ports", "mlflow").value.endswith("ours")


def test_the_live_server_is_asked_for_each_deployed_pipeline(here: Path) -> None:
    assert finding("servers", "triton-0").value == "down"
    receipts = here / ".state" / "triton" / "live"
    receipts.mkdir(parents=True)
    for pipeline in ("shop", "lost"):
        (receipts / f"{pipeline}.json").write_text(json.dumps({"engine": "onnxruntime-int8", "version": 7}))
    running(here, "triton-0")
    with ThreadingHTTPServer((addresses.HOST, addresses.port("TRITON")), Triton) as server:
        threading.Thread(target=server.serve_forever).start()
        found = examine()
        server.shutdown()
    states = {each.name: each.state for each in found if each.area == "servers"}
    assert (states["triton-0"], states["live shop"], states["live lost"]) == ("ok", "ok", "problem")
    lost = next(each for each in found if each.name == "live lost")
    assert next(each.value for each in found if each.name == "triton").endswith("ours")
    assert "version 7" in lost.value and lost.remedy == "make run PIPELINE=lost"


def test_backends_are_those_of_the_folder_and_of_params(here: Path) -> None:
    params = (here / "params.yaml").read_text()
    (here / "params.yaml").write_text(
        params.replace("backends: [onnxruntime, openvino, tensorrt_rtx]", "backends: [onnxruntime, abacus]")
    )
    assert finding("backends", "onnxruntime") == Finding("backends", "onnxruntime", "ok", "builds and runs here")
    assert "not among the backends" in finding("backends", "tensorrt_rtx").value
    assert problems() == {"abacus"}
    (here / "params.yaml").write_text("backends: [")
    assert "not examined" in finding("backends", "backends").value


def test_what_a_backend_needs_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "abacus.py").write_text("import json\ndef build():\n    import beads.wood\n    from rods import rod\n")
    assert libraries(tmp_path / "abacus.py") == ["beads", "rods"]


def test_each_instruction_set_is_one_that_measure_records() -> None:
    assert set(WORTH) <= set(INSTRUCTION_SETS)


@pytest.mark.parametrize(("free_gb", "state"), [(0.5, "problem"), (3.0, "note"), (40.0, "ok")])
def test_a_full_disk_is_told(free_gb: float, state: str) -> None:
    assert checkout.space(free_gb).state == state


@pytest.mark.parametrize(("mode", "state"), [(0o700, "ok"), (0o755, "note"), (0o777, "problem")])
def test_state_that_others_reach_is_told(here: Path, mode: int, state: str) -> None:
    (here / ".state").mkdir()
    (here / ".state").chmod(mode)
    found = finding("disk", ".state")
    assert found.state == state and ("chmod 700" in found.remedy) == (state != "ok")


def test_the_text_fits_80_columns_and_keeps_every_line(
    here: Path, taken: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "a-package-whose-name-is-longer-than-the-column"
    (here / "requirements.lock").write_text(f"{name}==1.0\nanother-one==2.0\n")
    assert doctor(as_json=False) == 1
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert name in out and "another-one" in out and out.count("rm -f .venv/ready; make setup") == 1
    assert "set ENGINEWORKS_MLFLOW_PORT" in out and "\n3 problems, " in out


def test_json_is_what_was_examined(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = doctor(as_json=True)
    found = [Finding(**each) for each in json.loads(capsys.readouterr().out)]
    assert code == any(each.state == "problem" for each in found)
    assert [each for each in found if each.name != "space"] == [each for each in examine() if each.name != "space"]


def test_it_writes_nothing_and_starts_nothing(here: Path, taken: socket.socket) -> None:
    def seen() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in (here, *here.rglob("*"))}

    running(here, "mlflow")
    before, children = seen(), psutil.Process().children()
    doctor(as_json=False)
    assert seen() == before and psutil.Process().children() == children


def test_the_doctor_is_quick_and_imports_nothing_heavy(here: Path) -> None:
    code = "import sys; from flows.doctor import doctor; doctor(True); print(*sys.modules, file=sys.stderr)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert json.loads(done.stdout)
    assert not set(done.stderr.split()) & {"torch", "numpy", "onnxruntime", "prefect", "mlflow", "dvc"}


@pytest.mark.skipif(shutil.which("cc") is None, reason="builds a stand-in for NVIDIA's driver library")
def test_gpus_are_read_from_the_driver(here: Path) -> None:
    library = here / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", library], input=DRIVER, text=True, check=True)
    code = "from flows.machine import gpu\nfor each in gpu(): print(each.state, each.name, each.value)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": str(here)}

    def said(**more: str) -> list[str]:
        line = [sys.executable, "-c", code]
        return subprocess.check_output(line, env=environment | more, text=True).splitlines()

    assert said()[:3] == [
        "ok driver for CUDA 13.1",
        "ok gpu 0 First, capability 8.9, 24.0 GB",
        "ok gpu 1 Second, capability 8.9, 85.0 GB",
    ]
    (error,) = said(CUDA_ERROR="100")
    assert error.startswith("problem") and error.endswith("CUDA_ERROR_NO_DEVICE")
