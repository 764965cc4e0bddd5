"""infra/door/envoy.yaml, run by a real Envoy before the live servers: the rules of the local door; the ingress, too."""

import dataclasses
import importlib.util
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tritonclient.grpc import service_pb2 as messages

from tests import door, miniature
from tests.conftest import Miniature
from tests.door import TENSOR, classify, grpc_call, http_ask, raw_ask, tensor
from tests.miniature import ROOT
from tests.test_bad_images import picture, saved
from tests.test_x_kills import until
from tests.test_yy_door import (
    BAD,
    BAD_MESSAGES,
    CLIENT_ERRORS,
    CLOSED,
    MODEL,
    OPEN,
    OPEN_RPCS,
    RAW,
    TRICKS,
    UNKNOWN_TO_THE_SERVER,
    complaint,
    message,
    version,
)

DOOR = ROOT / "infra" / "door"
ENVOY = yaml.safe_load((DOOR / "envoy.yaml").read_text())
SERVING = yaml.safe_load((ROOT / "params.yaml").read_text())["serving"]


def program() -> Path:
    """Return Envoy, of which a wheel is part of the development requirements."""
    found = importlib.util.find_spec("envoy")
    assert found and found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "_bin" / "envoy"


def local(system: Miniature, folder: Path, keys: Path, ports: list[int]) -> Path:
    """Write the configuration with this machine's addresses and the copy's key; nothing else is changed."""
    config = json.loads(json.dumps(ENVOY).replace("/etc/engineworks", str(keys)))
    for listener, port in zip(config["static_resources"]["listeners"], ports, strict=True):
        listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    for offset, cluster in enumerate(config["static_resources"]["clusters"]):
        targets = [door.port(system, "TRITON", 10 * replica + offset) for replica in (0, 1)]
        sockets = [{"socket_address": {"address": "127.0.0.1", "port_value": each}} for each in targets]
        cluster["load_assignment"]["endpoints"] = [
            {"lb_endpoints": [{"endpoint": {"address": each}} for each in sockets]}
        ]
    mount(keys, system.key().split()[-1])
    (folder / "envoy.json").write_text(json.dumps(config))
    return folder / "envoy.json"


def mount(folder: Path, key: str) -> None:
    """Renew the secret as Kubernetes does: the file is a link to `..data`, a link that is moved to another folder."""
    content = yaml.safe_load((DOOR / "keys.example.yaml").read_text())
    content["resources"][0]["typed_config"]["credentials"] = [{"client": "local", "key": key}]
    version = Path(tempfile.mkdtemp(prefix="..", dir=folder))
    (version / "keys.yaml").write_text(json.dumps(content))
    (folder / "..moving").symlink_to(version.name)
    (folder / "..moving").rename(folder / "..data")
    if not (folder / "keys.yaml").exists():
        (folder / "keys.yaml").symlink_to("..data/keys.yaml")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the keys, as a pod mounts it."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def envoy(ran: Miniature, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Miniature]:
    """Start Envoy before the copy's servers; give the copy as if that were its door."""
    folder, ports = tmp_path_factory.mktemp("envoy"), miniature.free_ports(2)
    options = ["--disable-hot-restart", "--concurrency", "2", "-l", "error"]
    command = [program(), "-c", local(ran, folder, keys, ports), *options]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        names = dict(zip(("ENGINEWORKS_HTTP_PORT", "ENGINEWORKS_GRPC_PORT"), map(str, ports), strict=True))
        system = dataclasses.replace(ran, environment=ran.environment | names)
        try:
            wait(system, folder / "log")
            yield system
        finally:
            process.terminate()


def wait(system: Miniature, log: Path) -> None:
    """Wait until Envoy answers."""
    deadline = time.monotonic() + 20
    while True:
        try:
            assert http_ask(system, MODEL).status == 200
            return
        except (OSError, AssertionError):
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.1)


def test_what_is_open_answers(envoy: Miniature) -> None:
    for method, path in OPEN:
        path = path.replace("/1", f"/{version(envoy)}") if "versions" in path else path
        assert http_ask(envoy, path, method=method).status == 200, path
    assert http_ask(envoy, TENSOR, json.dumps(tensor())).status == 200
    assert classify(envoy, saved(picture("L"), "PNG")).status == 200
    answer = grpc_call(address(envoy), "ModelInfer", message().SerializeToString(), authorization=envoy.key())
    assert messages.ModelInferResponse.FromString(answer).outputs


def test_a_key_is_renewed_as_kubernetes_does_it(envoy: Miniature, keys: Path) -> None:
    mount(keys, "another")
    try:
        until(lambda: http_ask(envoy, MODEL, key="Bearer another").status == 200, 10)
        assert http_ask(envoy, MODEL).status == 401
    finally:
        mount(keys, envoy.key().split()[-1])
        until(lambda: http_ask(envoy, MODEL).status == 200, 10)


def test_who_shows_no_key_sends_little(envoy: Miniature) -> None:
    for path in ("/v2/health/live", "/nowhere"):
        assert http_ask(envoy, path, b"x" * 2**20, "POST", key=None).status == 413, path


def address(system: Miniature) -> str:
    return f"127.0.0.1:{door.port(system, 'GRPC')}"


def test_what_is_closed_is_not_there(envoy: Miniature) -> None:
    for method, path in CLOSED + UNKNOWN_TO_THE_SERVER:
        token = (envoy.folder / ".state/triton/token").read_text()
        answer = http_ask(envoy, path, b"{}" if method == "POST" else None, method, admin_key=token)
        assert answer.status == 404 and "not here" in answer.sentence(), (path, answer)
    for path in TRICKS:
        answer = raw_ask(envoy, f"GET {path} HTTP/1.1\nContent-Length: 0")
        assert 400 <= answer.status < 500, (path, answer)


def test_a_key_is_asked_for(envoy: Miniature) -> None:
    for key in (None, "Bearer wrong", "Bearer "):
        for path, content in ((TENSOR, json.dumps(tensor())), (MODEL, None)):
            answer = http_ask(envoy, path, content, key=key)
            assert answer.status == 401 and "no valid key" in answer.sentence(), answer
    assert grpc_call(address(envoy), "ModelInfer", b"", authorization="Bearer wrong").code().name == "UNAUTHENTICATED"
    assert http_ask(envoy, "/v2/health/live", key=None).status == 200


def test_every_rpc_is_open_or_closed_as_at_the_local_door(envoy: Miniature) -> None:
    for method in messages.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        answer = grpc_call(address(envoy), method.name, b"", authorization=envoy.key())
        assert isinstance(answer, bytes) or answer.code().name in CLIENT_ERRORS, (method.name, answer)
        if method.name not in OPEN_RPCS:
            assert answer.code().name == "UNIMPLEMENTED", (method.name, answer)


def test_bad_input_is_refused_and_the_servers_live(envoy: Miniature) -> None:
    before = door.servers(envoy)
    for kind, (ask, _) in BAD.items():
        answer = ask(envoy)
        assert 400 <= answer.status < 500, (kind, answer)
        complaint(envoy, answer.sentence())
    for kind, (head, body, piece, _) in RAW.items():
        answer = raw_ask(envoy, head, body, piece)
        assert 400 <= answer.status < 500, (kind, answer)
    for kind, (make, _) in BAD_MESSAGES.items():
        content: Any = make()
        asked = content if isinstance(content, bytes) else content.SerializeToString()
        error = grpc_call(address(envoy), "ModelInfer", asked, authorization=envoy.key())
        assert error.code().name in CLIENT_ERRORS, (kind, error)
    assert door.servers(envoy) == before and door.all_live(envoy)


def routes(listener: int) -> list[dict[str, Any]]:
    """Return what a listener of envoy.yaml does with each path."""
    manager = ENVOY["static_resources"]["listeners"][listener]["filter_chains"][0]["filters"][0]["typed_config"]
    return list(manager["route_config"]["virtual_hosts"][0]["routes"])


def paths(listener: int) -> set[str]:
    """Return the expressions of the paths that a listener of envoy.yaml hands on."""
    return {each["match"]["safe_regex"]["regex"] for each in routes(listener) if "route" in each}


def test_the_limits_of_envoy_are_those_of_params_yaml() -> None:
    for listener in ENVOY["static_resources"]["listeners"]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        whole = next(each for each in manager["http_filters"] if each["name"] == "whole")
        assert whole["typed_config"]["max_request_bytes"] == SERVING["max_body_mb"] << 20
    for route in (each["route"] for number in (0, 1) for each in routes(number) if "route" in each):
        assert route["timeout"] == f"{SERVING['timeout_s']}s"
    for cluster in ENVOY["static_resources"]["clusters"]:
        of_all_keys = cluster["circuit_breakers"]["thresholds"][0]["max_requests"]
        assert of_all_keys >= SERVING["realtime"]["max_in_flight"]
    assert f"over the {SERVING['max_body_mb']} MB" in json.dumps(ENVOY)


def test_the_paths_of_all_doors_are_the_same() -> None:
    for listener, file in enumerate(("http.conf", "grpc.conf")):
        text = (DOOR / file).read_text()
        of_nginx = {line.split()[2] for line in text.splitlines() if line.startswith("location ~ ")}
        of_nginx |= {"^/v2/health/(live|ready)$"} if "location = /v2/health/live {" in text else set()
        assert {each.removeprefix("^").removesuffix("$") for each in of_nginx} == paths(listener)


def test_the_ingress_is_as_narrow_as_envoy() -> None:
    text = (ROOT / "infra/k8s/ingress/ingress.yaml").read_text()
    every = {each["metadata"]["name"]: each for each in yaml.safe_load_all(text)}
    for listener, name in enumerate(("door-http", "door-grpc")):
        given = {key.rpartition("/")[2]: value for key, value in every[name]["metadata"]["annotations"].items()}
        assert given["proxy-body-size"] == f"{SERVING['max_body_mb']}m"
        assert given["proxy-read-timeout"] == str(SERVING["timeout_s"])
        assert given["limit-connections"] == str(SERVING["realtime"]["max_in_flight"])
        found = {each["path"].removesuffix("$") for each in every[name]["spec"]["rules"][0]["http"]["paths"]}
        assert found == paths(listener)
