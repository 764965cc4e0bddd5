"""The door: what is not inference, metadata or health is not there; bad input is a sentence, and all live on."""

import asyncio
import functools
import json
import re
import resource
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from tritonclient.grpc import service_pb2 as messages

from flows.replicas import HEADER
from tests import door
from tests.conftest import Miniature
from tests.door import INFER, TENSOR, Answer, binary, classify, grpc_call, http_ask, image, raw_ask, tensor
from tests.test_bad_images import REJECTED, USED, picture, saved, turned

WITHIN_S = 10
bomb = functools.cache(REJECTED["20,000 x 20,000"][0])  # takes seconds to make
OPEN_RPCS = {"ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer"}
CLIENT_ERRORS = {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED"}
MODEL = "/v2/models/fashion"
OPEN = [
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2"),
    ("GET", MODEL),
    ("GET", f"{MODEL}/ready"),
    ("GET", f"{MODEL}/versions/1"),
    ("GET", f"{MODEL}/versions/1/ready"),
]
CLOSED = [
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/fashion/load"),
    ("POST", "/v2/repository/models/fashion/unload"),
    ("GET", f"{MODEL}/config"),
    ("GET", f"{MODEL}/versions/1/config"),
    ("GET", f"{MODEL}/stats"),
    ("GET", "/v2/models/stats"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/trace/setting"),
    ("POST", f"{MODEL}/trace/setting"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
    *(
        (method, f"/v2/{kind}sharedmemory/{path}")
        for kind in ("system", "cuda")
        for method, path in (
            ("GET", "status"),
            ("GET", "region/x/status"),
            ("POST", "region/x/register"),
            ("POST", "region/x/unregister"),
            ("POST", "unregister"),
        )
    ),
]
UNKNOWN_TO_THE_SERVER = [("GET", "/metrics"), ("POST", f"{MODEL}/generate"), ("POST", f"{MODEL}/generate_stream")]
TRICKS = [
    "/v2/models/../repository/index",
    "/v2/models/fashion/infer/../config",
    "/v2/models/%2e%2e/repository/index",
    "/v2/models/fashion%2fconfig",
    "/v2/models/fashion/infer/..%2fconfig",
    "//v2//repository//index",
    "/v2/./logging",
    "/V2/repository/index",
    "/v2/repository/index?x=/v2/models/fashion",
    "/v2/repository/index#/v2/models/fashion",
    "/v2/models/fashion;/config",
    "/v2/models/fashion/config%00/infer",
    "/v2/models/fashion/versions/1/../../config",
    "/v2/models/fashion%0a/config",
    "/json/v2/models/fashion/infer",
    "/judge/v2/repository/index",
    "/nobody",
    "/malformed",
    "http://127.0.0.1/v2/repository/index",
    "*",
    "/" + "x" * 20_000,
    "/v2/models/" + "x" * 400,
    "/v2/models/stats/infer",
    "/v2/models/../../../../etc/passwd",
]


@pytest.fixture
def unharmed(ran: Miniature) -> Iterator[Miniature]:
    """The servers answer after a test as before it, and are the same processes."""
    before = door.servers(ran)
    assert len(before) == 2
    yield ran
    assert door.all_live(ran) and door.servers(ran) == before


def complaint(system: Miniature, sentence: str) -> str:
    """Return a sentence for people; one that tells of the machine fails."""
    assert 10 < len(sentence) < 500 and "Traceback" not in sentence and ".py" not in sentence, sentence
    for place in (str(system.folder), "/tmp", "/home", "/root", "/usr", "/opt", "/work"):
        assert place not in sentence, sentence
    return sentence


# ---- what is there, and what is not ----


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_health_and_metadata_pass(ran: Miniature, method: str, path: str) -> None:
    path = path.replace("/1", f"/{version(ran)}") if "versions" in path else path
    assert http_ask(ran, path, method=method).status == 200


def version(system: Miniature) -> str:
    """Return the version that a client sees."""
    return str(json.loads(http_ask(system, MODEL).text)["versions"][-1])


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_control_is_not_at_the_door_and_closed_at_the_server(unharmed: Miniature, method: str, path: str) -> None:
    body = b"{}" if method == "POST" else None
    token = {HEADER.replace("-", "_"): (unharmed.folder / ".state/triton/token").read_text()}
    for headers in ({}, token):  # not even who has the token
        answer = http_ask(unharmed, path, body, method, **headers)
        assert answer.status == 404, answer
        complaint(unharmed, answer.sentence())
    for offset in (0, 10):
        straight = http_ask(unharmed, path, body, method, at=door.port(unharmed, "TRITON", offset))
        assert straight.status == 403 and "restricted" in straight.text, straight


@pytest.mark.parametrize(("method", "path"), UNKNOWN_TO_THE_SERVER)
def test_what_nobody_serves_is_not_at_the_door(unharmed: Miniature, method: str, path: str) -> None:
    assert http_ask(unharmed, path, b"{}" if method == "POST" else None, method).status == 404


@pytest.mark.parametrize("path", TRICKS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_spelling_of_a_path_gets_round_the_rules(unharmed: Miniature, path: str, method: str) -> None:
    body = b"{}" if method == "POST" else b""
    answer = raw_ask(unharmed, f"{method} {path} HTTP/1.1\nContent-Length: {len(body)}", body)
    assert 400 <= answer.status < 500, answer
    complaint(unharmed, answer.sentence())


@pytest.mark.parametrize(
    "method", [each.name for each in messages.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]
)
def test_every_rpc_is_open_at_the_door_or_closed_there_and_at_the_server(unharmed: Miniature, method: str) -> None:
    """ModelStreamInfer counts as inference at the server, which listens on loopback: the door alone closes it."""
    public = f"127.0.0.1:{door.port(unharmed, 'GRPC')}"
    request = messages.ModelMetadataRequest(name="fashion").SerializeToString() if method.startswith("ModelM") else b""
    request = messages.ModelReadyRequest(name="fashion").SerializeToString() if method == "ModelReady" else request
    answer = grpc_call(public, method, request, authorization=unharmed.key())
    if method in OPEN_RPCS:
        assert isinstance(answer, bytes) or (method == "ModelInfer" and answer.code().name in CLIENT_ERRORS), answer
        return
    assert answer.code().name == "UNIMPLEMENTED" and "not here" in answer.details()
    if method != "ModelStreamInfer":
        straight = grpc_call(f"127.0.0.1:{door.port(unharmed, 'TRITON', 1)}", method, request)
        assert straight.code().name == "UNAVAILABLE" and "restricted" in straight.details(), straight


def test_a_key_is_asked_for(unharmed: Miniature) -> None:
    body = json.dumps(tensor())
    for key in (None, "Bearer wrong", "Bearer ", unharmed.key()[:-1], unharmed.key().replace("Bearer", "Basic")):
        for path, content in ((TENSOR, body), (MODEL, None), ("/v2", None)):
            answer = http_ask(unharmed, path, content, key=key)
            assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
            complaint(unharmed, answer.sentence())
    public = f"127.0.0.1:{door.port(unharmed, 'GRPC')}"
    for metadata in ({}, {"authorization": "Bearer wrong"}):
        for method in ("ModelInfer", "ModelMetadata", "ServerMetadata", "ModelReady"):
            assert grpc_call(public, method, b"", **metadata).code().name == "UNAUTHENTICATED"


def test_no_secret_is_on_a_command_line_and_files_are_private(ran: Miniature) -> None:
    keys = [path for path in (ran.folder / ".state/door/keys").glob("*/*")]
    files = [*keys, ran.folder / ".state/triton/token", ran.folder / ".state/door/nginx.conf"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    secrets = [path.read_text().split()[-1] for path in files[:-1]]
    assert len(secrets) >= 2 and all(len(secret) >= 32 for secret in secrets)
    seen = 0
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        seen += "restricted" in words or "tritonserver" in words
        assert not [secret for secret in secrets if secret in words], process
    assert seen >= 2


def test_the_door_listens_on_loopback_alone(ran: Miniature) -> None:
    ports = {door.port(ran, name) for name in ("HTTP", "GRPC")} | {
        door.port(ran, "TRITON", 10 * replica + each) for replica in (0, 1) for each in (0, 1, 2)
    }
    listening = [each.laddr for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    found = {(where.ip.removeprefix("::ffff:"), where.port) for where in listening if where.port in ports}
    assert found == {("127.0.0.1", each) for each in ports}


# ---- bad input over HTTP ----


def nested(count: int) -> bytes:
    return b'{"inputs":' + b"[" * count + b"]" * count + b"}"


def shared() -> dict[str, Any]:
    parameters = {"shared_memory_region": "triton_python_backend_shm_region_1", "shared_memory_byte_size": 3136}
    return {"inputs": [{"name": "input", "shape": [1, 1, 28, 28], "datatype": "FP32", "parameters": parameters}]}


def json_case(content: Any, path: str = TENSOR) -> Callable[[Miniature], Answer]:
    return lambda system: http_ask(system, path, content if isinstance(content, bytes) else json.dumps(content))


def image_case(make: Callable[[], bytes]) -> Callable[[Miniature], Answer]:
    return lambda system: classify(system, make())


def binary_case(array: np.ndarray, **changes: str) -> Callable[[Miniature], Answer]:
    body, headers = binary(array)
    return lambda system: http_ask(system, TENSOR, body, **headers | changes)


def lying_image(said: int) -> Callable[[Miniature], Answer]:
    body, headers = image(saved(picture("L"), "PNG"), said)
    return lambda system: http_ask(system, INFER, body, **headers)


ONE = np.zeros((1, 1, 28, 28), np.float32)
BAD: dict[str, tuple[Callable[[Miniature], Answer], str]] = {
    "wrong shape": (json_case(tensor([1, 1, 27, 28])), "unexpected shape|input"),
    "no batch": (json_case(tensor([28, 28])), "shape|input"),
    "negative shape": (json_case(tensor([1, 1, 28, 28], shape=[-1, 1, 28, 28])), "shape|parse|dim"),
    "overflowing shape": (json_case(tensor([1, 1, 28, 28], shape=[2**62, 4, 28, 28])), "shape|batch|elem|parse"),
    "wrong type": (json_case(tensor(datatype="INT64", data=[0] * 784)), "data-?type|type"),
    "unknown type": (json_case(tensor(datatype="FP31")), "type"),
    "wrong name": (json_case(tensor(name="imput")), "imput|input"),
    "an input twice": (json_case({"inputs": tensor()["inputs"] * 2}), "input"),
    "no inputs": (json_case({"inputs": []}), "input"),
    "unknown output": (json_case(tensor() | {"outputs": [{"name": "nothing"}]}), "output"),
    "too few numbers": (json_case(tensor(data=[0.0] * 783)), "data|elem|expected|input"),
    "text for numbers": (json_case(tensor(data=["a"] * 784)), "parse|data|number"),
    "a batch over the limit": (binary_case(np.zeros((door.BATCH + 1, 1, 28, 28), np.float32)), "batch"),
    "no samples": (binary_case(np.zeros((0, 1, 28, 28), np.float32)), "batch|shape|byte|input"),
    "NaN": (binary_case(np.full((1, 1, 28, 28), np.nan, np.float32)), "NaN or infinite"),
    "an infinity": (binary_case(np.full((1, 1, 28, 28), -np.inf, np.float32)), "NaN or infinite"),
    "empty body": (json_case(b""), "parse|empty|input"),
    "no JSON": (json_case(b"hello"), "no JSON"),
    "no object": (json_case(b"[1, 2]"), "parse|object|input|key"),
    "binary zeros": (json_case(bytes(1000)), "no JSON"),
    "49,000 nested brackets": (json_case(nested(49_000)), "parse|nest|object|key|input"),
    "49,000 open brackets": (json_case(b"[" * 49_000), "nested too deep"),
    "250,000 nested brackets": (json_case(nested(250_000)), "99,999"),
    "JSON of 2 MB": (json_case(b'{"id":"' + b"x" * 2_000_000 + b'"}'), "99,999"),
    "header length 99999999999": (binary_case(ONE, Inference_Header_Content_Length="99999999999"), "99999"),
    "negative header length": (binary_case(ONE, Inference_Header_Content_Length="-1"), "99999"),
    "header length in words": (binary_case(ONE, Inference_Header_Content_Length="ten"), "99999"),
    "header longer than the body": (binary_case(ONE, Inference_Header_Content_Length="900000"), "header|parse|body"),
    "header length 0": (binary_case(ONE, Inference_Header_Content_Length="0"), "raw|input|byte|binary|shape"),
    "a picture said to be longer": (lying_image(1 << 30), "length|byte|element|string|size"),
    "a picture said to be 4 GB": (lying_image(0xFFFFFFFF), "length|byte|element|string|size"),
    "shared memory of the server": (json_case(shared()), "shared memory|region"),
    "unknown model": (json_case(tensor(), "/v2/models/nothing/infer"), "nothing"),
    "unknown version": (json_case(tensor(), "/v2/models/fashion_tensor/versions/99/infer"), "99|version"),
    "unknown model's metadata": (lambda system: http_ask(system, "/v2/models/nothing"), "nothing|model"),
    "inference by GET": (lambda system: http_ask(system, INFER), "POST"),
    "metadata by POST": (lambda system: http_ask(system, MODEL, b"{}"), "GET"),
    "DELETE": (lambda system: http_ask(system, MODEL, method="DELETE"), "GET"),
    "compressed": (lambda system: http_ask(system, INFER, b"\x1f\x8b" * 9, Content_Encoding="gzip"), "not compressed"),
    "text as an image": (image_case(lambda: b"no picture at all" * 99), "no picture, it begins with"),
    "JPEG cut at half": (image_case(lambda: turned(1)[: len(turned(1)) // 2]), "can't be decoded"),
    "a bomb of 400 megapixels": (image_case(bomb), "64,000,000 pixels"),
    "an empty picture": (image_case(lambda: b""), "the file is empty"),
}
RAW: dict[str, tuple[str, bytes, int, str]] = {
    "300 MB body": (f"POST {INFER} HTTP/1.1\nContent-Length: {300 << 20}", bytes(300 << 20), 1 << 20, "32 MB"),
    "a million chunks": (
        f"POST {INFER} HTTP/1.1\nTransfer-Encoding: chunked",
        b"1\r\nx\r\n" * 1_000_000 + b"0\r\n\r\n",
        1 << 16,
        "not in chunks",
    ),
    "length and chunks": (
        f"POST {INFER} HTTP/1.1\nContent-Length: 5\nTransfer-Encoding: chunked",
        b"0\r\n\r\n",
        5,
        "no HTTP|not in chunks",
    ),
    "two lengths": (f"POST {INFER} HTTP/1.1\nContent-Length: 2\nContent-Length: 200", b"{}", 2, "no HTTP request"),
    "length -1": (f"POST {INFER} HTTP/1.1\nContent-Length: -1", b"", 1, "no HTTP request"),
    "length of 30 digits": (f"POST {INFER} HTTP/1.1\nContent-Length: {'9' * 30}", b"", 1, "no HTTP request"),
    "no length": (f"POST {INFER} HTTP/1.1", b"", 1, "parse|empty|input"),
    "header of 100 KB": (f"GET {MODEL} HTTP/1.1\nX: {'x' * 100_000}", b"", 1, "no HTTP request"),
    "10,000 headers": (f"GET {MODEL} HTTP/1.1\n" + "\n".join(f"X{i}: x" for i in range(10_000)), b"", 1, "no HTTP"),
    "no HTTP": ("hello", b"", 1, "no HTTP request"),
    "TLS": ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"", 1, "no HTTP request"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_a_sentence(unharmed: Miniature, kind: str) -> None:
    ask, words = BAD[kind]
    begun = time.monotonic()
    answer = ask(unharmed)
    assert time.monotonic() - begun < WITHIN_S
    assert 400 <= answer.status < 500, answer
    assert re.search(words, complaint(unharmed, answer.sentence()), re.IGNORECASE), answer


@pytest.mark.parametrize("kind", RAW)
def test_bytes_that_no_library_sends_are_answered_with_a_sentence(unharmed: Miniature, kind: str) -> None:
    head, body, piece, words = RAW[kind]
    begun = time.monotonic()
    answer = raw_ask(unharmed, head, body, piece)
    assert time.monotonic() - begun < WITHIN_S
    assert 400 <= answer.status < 500, answer
    assert re.search(words, complaint(unharmed, answer.sentence()), re.IGNORECASE), answer


def test_who_sends_too_much_again_and_again_is_held_back_unread_and_others_do_not_notice(unharmed: Miniature) -> None:
    from concurrent.futures import ThreadPoolExecutor

    head, body, piece, words = RAW["300 MB body"]

    def send(_: int) -> tuple[Answer, float]:
        begun = time.monotonic()
        return raw_ask(unharmed, head, body, piece), time.monotonic() - begun

    with ThreadPoolExecutor(6) as pool:
        sending = pool.map(send, range(6))
        time.sleep(0.5)
        for _ in range(20):
            begun = time.monotonic()
            other = http_ask(unharmed, TENSOR, json.dumps(tensor()), key=unharmed.key("throughput"))
            assert other.status == 200 and time.monotonic() - begun < 1
        answers = list(sending)
    assert all(answer.status == 413 and re.search(words, answer.sentence()) for answer, _ in answers), answers
    assert max(seconds for _, seconds in answers) > 2, "held back"


@pytest.mark.parametrize("kind", USED)
def test_a_picture_that_prepare_uses_is_answered_as_prepare_sees_it(ran: Miniature, kind: str) -> None:
    from PIL import Image

    from tasks.modalities.image import formats

    seen = saved(Image.fromarray(formats.decode(USED[kind](), 1)), "PNG")
    answers = [classify(ran, data) for data in (USED[kind](), seen)]
    assert [each.status for each in answers] == [200, 200], answers
    one, other = (scores(each) for each in answers)
    assert np.abs(one - other).max() < 0.1, f"{one} {other}"


def scores(answer: Answer) -> Any:
    """Return the scores of a classified picture."""
    outputs = {each["name"]: each["data"] for each in json.loads(answer.text)["outputs"]}
    return np.array(outputs["scores"])


@pytest.mark.parametrize("kind", REJECTED)
def test_a_picture_that_prepare_rejects_is_refused_in_the_same_words(unharmed: Miniature, kind: str) -> None:
    make, words = REJECTED[kind]
    answer = classify(unharmed, bomb() if make is bomb.__wrapped__ else make())
    assert answer.status == 400
    assert re.search(words, complaint(unharmed, answer.sentence())), answer


def test_one_bad_picture_harms_no_other_request_of_its_batch(unharmed: Miniature) -> None:
    from concurrent.futures import ThreadPoolExecutor

    good, bad = saved(picture("L"), "PNG"), b"text"
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda i: classify(unharmed, bad if i % 2 else good).status, range(64)))
    assert statuses == [200, 400] * 32


# ---- bad input over gRPC ----


def message(array: np.ndarray = ONE, model: str = "fashion_tensor", **changes: Any) -> Any:
    """Return an inference, a good one unless something is changed."""
    given = {"name": "input", "datatype": "FP32", "shape": list(array.shape)} | changes
    return messages.ModelInferRequest(model_name=model, inputs=[given], raw_input_contents=[array.tobytes()])


def picture_message(data: bytes) -> Any:
    import struct

    given = {"name": "image", "datatype": "BYTES", "shape": [1, 1]}
    content = struct.pack("<I", len(data)) + data
    return messages.ModelInferRequest(model_name="fashion", inputs=[given], raw_input_contents=[content])


def without_contents() -> Any:
    asked = message()
    del asked.raw_input_contents[:]
    return asked


def from_shared_memory() -> Any:
    asked = without_contents()
    asked.inputs[0].parameters["shared_memory_region"].string_param = "triton_python_backend_shm_region_1"
    asked.inputs[0].parameters["shared_memory_byte_size"].int64_param = 3136
    return asked


BAD_MESSAGES: dict[str, tuple[Callable[[], Any], str]] = {
    "wrong shape": (lambda: message(shape=[1, 1, 27, 28]), "shape|byte"),
    "negative shape": (lambda: message(shape=[-1, 1, 28, 28]), "shape|byte|batch|dim"),
    "overflowing shape": (lambda: message(shape=[2**62, 4, 28, 28]), "shape|byte|batch|elem"),
    "wrong type": (lambda: message(ONE.astype(np.int64), datatype="INT64"), "type"),
    "unknown type": (lambda: message(datatype="FP31"), "type"),
    "wrong name": (lambda: message(name="imput"), "imput|input"),
    "too few bytes": (lambda: message(np.zeros(3, np.float32), shape=[1, 1, 28, 28]), "byte"),
    "no contents": (without_contents, "input|content|byte|data"),
    "no inputs": (lambda: messages.ModelInferRequest(model_name="fashion_tensor"), "input"),
    "a batch over the limit": (lambda: message(np.zeros((door.BATCH + 1, 1, 28, 28), np.float32)), "batch"),
    "NaN": (lambda: message(ONE * np.nan), "NaN or infinite"),
    "unknown model": (lambda: message(model="nothing"), "nothing"),
    "no model": (lambda: message(model=""), "model"),
    "shared memory of the server": (from_shared_memory, "shared memory|region"),
    "text as an image": (lambda: picture_message(b"no picture" * 99), "no picture, it begins"),
    "JPEG cut at half": (lambda: picture_message(turned(1)[: len(turned(1)) // 2]), "can't be decoded"),
    "a bomb of 400 megapixels": (lambda: picture_message(bomb()), "64,000,000 pixels"),
    "over 32 MB": (lambda: message(np.zeros((20_000, 1, 28, 28), np.float32)), "32 MB"),
    "no message": (lambda: b"\xff" * 100, "parse|read|unmarshal|deserial|request"),
}


@pytest.mark.parametrize("kind", BAD_MESSAGES)
def test_a_bad_message_is_a_status_with_a_sentence(unharmed: Miniature, kind: str) -> None:
    make, words = BAD_MESSAGES[kind]
    content, begun = make(), time.monotonic()
    asked = content if isinstance(content, bytes) else content.SerializeToString()
    address = f"127.0.0.1:{door.port(unharmed, 'GRPC')}"
    error = grpc_call(address, "ModelInfer", asked, authorization=unharmed.key())
    assert time.monotonic() - begun < WITHIN_S
    assert error.code().name in CLIENT_ERRORS, error
    assert re.search(words, complaint(unharmed, error.details()), re.IGNORECASE), error


# ---- crowds ----


@pytest.fixture(scope="module", autouse=True)
def many_files() -> Iterator[None]:
    """Let this process open as many connections as it may be let: a crowd is more than 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def converse(address: tuple[str, int], request: bytes) -> int:
    """Send a request and return the status; a connection that is reset raises."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(request)
        await writer.drain()
        status = int((await reader.readline()).split()[1])
        await reader.read()
        return status
    finally:
        writer.close()


def test_a_thousand_clients_at_once_are_answered_or_told_to_wait(unharmed: Miniature) -> None:
    body = json.dumps(tensor()).encode()
    lines = [f"POST {TENSOR} HTTP/1.1", "Host: door", f"Authorization: {unharmed.key()}", "Connection: close"]
    request = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body

    async def crowd() -> list[int]:
        address = ("127.0.0.1", door.port(unharmed, "HTTP"))
        return await asyncio.wait_for(asyncio.gather(*(converse(address, request) for _ in range(1000))), 60)

    statuses = asyncio.run(crowd())
    assert len(statuses) == 1000 and set(statuses) <= {200, 429, 503}
    serving = yaml.safe_load((unharmed.folder / "params.yaml").read_text())["serving"]
    assert statuses.count(200) >= serving["realtime"]["max_in_flight"]


async def told(line: tuple[Any, Any], request: bytes, begun: float) -> tuple[int, str, float]:
    """Send a request and return the status, all that was said, and when: seconds after `begun`."""
    reader, writer = line
    writer.write(request)
    await writer.drain()
    text = (await reader.read()).decode()
    writer.close()
    return int(text.split()[1]), text, time.monotonic() - begun


def test_a_key_that_asks_too_often_is_held_back_then_refused_and_others_do_not_notice(unharmed: Miniature) -> None:
    given = yaml.safe_load((unharmed.folder / "params.yaml").read_text())["serving"]
    rate, at_once = given["max_requests_per_s"], given["realtime"]["max_in_flight"]
    body = json.dumps(tensor()).encode()

    def request(key: str) -> bytes:
        lines = [f"POST {TENSOR} HTTP/1.1", "Host: door", f"Authorization: {key}", "Connection: close"]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body

    async def flood(count: int) -> tuple[list[tuple[int, str, float]], tuple[int, str, float]]:
        """Ask so many times at once, and once for another key."""
        address = ("127.0.0.1", door.port(unharmed, "HTTP"))
        lines = [await asyncio.open_connection(*address) for _ in range(count + 1)]
        begun = time.monotonic()
        asked = [asyncio.create_task(told(line, request(unharmed.key()), begun)) for line in lines[1:]]
        await asyncio.sleep(0.3)
        other = await told(lines[0], request(unharmed.key("throughput")), time.monotonic())
        return await asyncio.wait_for(asyncio.gather(*asked), 60), other

    often, slow = f"asks more than {rate} times a second", "requests under way"  # of a machine that keeps no pace

    time.sleep(3)  # for what others of this key asked before
    answers, other = asyncio.run(flood(rate))
    assert all(status == 200 or slow in text for status, text, _ in answers)
    assert [status for status, *_ in answers].count(200) > rate / 2
    assert max(seconds for *_, seconds in answers) > 0.7, "held back"
    assert other[0] == 200 and other[2] < 1

    time.sleep(1)
    asked, room = 4 * rate, at_once + 2 * rate
    answers, other = asyncio.run(flood(asked))
    refused = [seconds for _, text, seconds in answers if often in text]
    assert all(status == 200 or (status == 429 and (often in text or slow in text)) for status, text, _ in answers)
    assert 0 < asked - room - rate * max(refused) - 1 <= len(refused) <= asked - room
    assert other[0] == 200 and other[2] < 2


def test_a_thousand_slow_senders_keep_nobody_waiting(unharmed: Miniature) -> None:
    heads = [
        f"POST {TENSOR} HTTP/1.1\r\nHost: door\r\nContent-Length: 1000\r\n\r\n{{",  # without a key: refused at once
        f"POST {TENSOR} HTTP/1.1\r\nHost: do",
    ]
    lines = [socket.create_connection(("127.0.0.1", door.port(unharmed, "HTTP"))) for _ in range(1000)]
    try:
        for number, line in enumerate(lines):
            line.sendall(heads[number % 2].encode())
        for _ in range(20):
            begun = time.monotonic()
            assert http_ask(unharmed, TENSOR, json.dumps(tensor())).status == 200
            assert time.monotonic() - begun < 1
    finally:
        for line in lines:
            line.close()
