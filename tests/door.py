"""What clients send through the door: plain requests, and the bytes that no library would send."""

import http.client
import json
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from tests.conftest import Miniature

BATCH = 64  # the most that a request may hold
INFER, TENSOR = "/v2/models/fashion/infer", "/v2/models/fashion_tensor/infer"


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP."""

    status: int
    text: str
    headers: dict[str, str]

    def sentence(self) -> str:
        """Return the one sentence of an error; anything else there is a failure."""
        content = json.loads(self.text)
        assert content.keys() == {"error"} and isinstance(content["error"], str)
        return str(content["error"])


def port(system: Miniature, name: str, offset: int = 0) -> int:
    return int(system.environment[f"ENGINEWORKS_{name}_PORT"]) + offset


def http_ask(
    system: Miniature, path: str, body: Any = None, method: str = "", key: str | None = "", at: int = 0, **headers: str
) -> Answer:
    """Ask the door, or another port; `key` replaces the one that the door knows, None sends none."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        sent["Authorization"] = key or system.key()
    connection = http.client.HTTPConnection("127.0.0.1", at or port(system, "HTTP"), timeout=30)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, sent)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read().decode(), {k.lower(): v for k, v in answer.getheaders()})
    finally:
        connection.close()


def raw_ask(system: Miniature, head: str, body: bytes = b"", piece: int = 1 << 16, key: bool = True) -> Answer:
    """Send bytes as they are, as far as the door takes them, and read what it says."""
    lines = head.splitlines() + ["Host: door"] + ([f"Authorization: {system.key()}"] if key else [])
    with socket.create_connection(("127.0.0.1", port(system, "HTTP")), timeout=30) as line:
        try:
            line.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
            for start in range(0, len(body), piece):
                line.sendall(body[start : start + piece])
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has answered already, and reads no more
        answer = http.client.HTTPResponse(line)
        answer.begin()
        return Answer(answer.status, answer.read().decode(), dict(answer.getheaders()))


def tensor(dims: list[int] | None = None, /, **changes: Any) -> dict[str, Any]:
    """Return a request of one tensor in JSON, a good one unless something is changed."""
    dims = dims or [1, 1, 28, 28]
    given = {"name": "input", "shape": dims, "datatype": "FP32", "data": [0.0] * int(np.prod(dims))} | changes
    return {"inputs": [given]}


def image(data: bytes, size: int | None = None) -> tuple[bytes, dict[str, str]]:
    """Return the body and the header of a request of one encoded picture, `size` being what is said of its length."""
    content = struct.pack("<I", len(data) if size is None else size & 0xFFFFFFFF) + data
    given = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(content)}}
    outputs = [{"name": name, "parameters": {"binary_data": False}} for name in ("label", "scores")]
    head = json.dumps({"inputs": [given], "outputs": outputs}).encode()
    return head + content, {"Inference_Header_Content_Length": str(len(head))}


def classify(system: Miniature, data: bytes) -> Answer:
    """Have the door classify a picture."""
    body, headers = image(data)
    return http_ask(system, INFER, body, **headers)


def binary(array: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """Return the body and the header of a request of one tensor in binary."""
    given = {"name": "input", "shape": list(array.shape), "datatype": "FP32"}
    head = json.dumps({"inputs": [given | {"parameters": {"binary_data_size": array.nbytes}}]}).encode()
    return head + array.tobytes(), {"Inference_Header_Content_Length": str(len(head))}


def grpc_call(address: str, method: str, request: bytes, timeout_s: float = 20, **metadata: str) -> Any:
    """Call a method with a message as it is; return the `grpc.RpcError`, or the answer's bytes."""
    import grpc

    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options=options) as channel:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        try:
            return call(request, timeout=timeout_s, metadata=[(k.replace("_", "-"), v) for k, v in metadata.items()])
        except grpc.RpcError as error:
            return error


def servers(system: Miniature) -> list[psutil.Process]:
    """Return the living processes of the copy's Tritons, by their ports."""
    found = {}
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = " ".join(process.info["cmdline"] or [])
        if process.info["cwd"] == str(system.folder) and "/tritonserver " in words and "explicit" in words:
            found[words.partition("--http-port=")[2].split()[0]] = process
    return [found[key] for key in sorted(found)]


def all_live(system: Miniature) -> bool:
    """Tell whether the door, and each server behind it, answers a good request within a second or so."""
    begun = time.monotonic()
    for at in (port(system, "HTTP"), port(system, "TRITON"), port(system, "TRITON", 10)):
        if http_ask(system, TENSOR, json.dumps(tensor()), at=at).status != 200:
            return False
    return time.monotonic() - begun < 5
