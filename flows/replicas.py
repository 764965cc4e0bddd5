"""The servers behind the door: how many there are, where each listens, and who may control them."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flows import addresses, tokens
from tasks.params import PARAMS, checked, read

HEADER = "admin-key"  # that Triton wants the token in; over gRPC it puts a prefix before it
STEP = 10  # between the first ports of two replicas


class Observe(BaseModel):
    """What servers note of their answers to clients, for drift monitoring."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sample: Annotated[float, Field(ge=0, le=1)]
    max_mb: Annotated[float, Field(ge=0.01, le=100_000)]
    keep: Literal["nothing", "outputs", "statistics"]


class Class(BaseModel):
    """What the door lets each key of a class of requests have under way."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    max_in_flight: Annotated[int, Field(ge=1, le=100_000)]


class Bulk(Class):
    """The class of bulk work, and how many samples of it come in a request."""

    batch: Annotated[int, Field(ge=1, le=1024)]


class Knobs(BaseModel):
    """The serving section of params.yaml: what all pipelines share."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    replicas: Annotated[int, Field(ge=1, le=16)]
    max_body_mb: Annotated[int, Field(ge=1, le=1024)]
    max_requests_per_s: Annotated[int, Field(ge=1, le=1_000_000)]
    realtime: Class
    throughput: Bulk
    timeout_s: Annotated[int, Field(ge=1, le=3600)]
    observe: Observe


@dataclass(frozen=True)
class Replica:
    """A Triton of our own."""

    name: str  # of the service
    http: str  # 127.0.0.1:8010
    grpc: str
    metrics: str

    def client(self) -> Any:
        """Return a gRPC client that may load and unload models."""
        import tritonclient.grpc as triton

        client = triton.InferenceServerClient(self.grpc)
        client.register_plugin(Admin())
        return client


class Admin:
    """What tritonclient calls with each request: adds the token that the control calls want."""

    def __init__(self) -> None:
        self.header = {f"triton-grpc-protocol-{HEADER}": tokens.control()}

    def __call__(self, request: Any) -> None:
        """Add the token to a request's headers."""
        request.headers = {**(request.headers or {}), **self.header}


def knobs() -> Knobs:
    """Return the serving section; `ValueError` names the knob that is wrong."""
    found: Knobs = checked(Knobs, read().get("serving", {}), f"{PARAMS}: serving")
    return found


def replicas() -> list[Replica]:
    """Return every replica, the first first."""
    base, found = addresses.port("TRITON"), []
    for number in range(knobs().replicas):
        ports = [f"{addresses.HOST}:{base + STEP * number + offset}" for offset in range(3)]
        found.append(Replica(f"triton-{number}", *ports))
    return found
