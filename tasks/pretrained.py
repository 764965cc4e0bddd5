"""Where a training may start from: weights of others, known by their SHA-256."""

import importlib.metadata
import io
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks import digest, networks, settings

TIMEOUT_S = 60
SUFFIXES = (".safetensors", ".pth", ".pt")
HEAD = "head."  # what is always learnt anew


class Pretrained(BaseModel):
    """The weights to start from, and how: the head alone first, then the rest, slower the further from the head.

    Of the four places just one is given. `package` is installed here and ships them; `mlflow` is `models:/NAME/VERSION`
    or `runs:/RUN/PATH`. Sources: Howard and Ruder, "Universal Language Model Fine-tuning", ACL 2018, for both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    file: Annotated[str, Field(min_length=1)] | None = None
    https: Annotated[str, Field(pattern=r"^https://\S+$")] | None = None
    mlflow: Annotated[str, Field(pattern=r"^(models:/[^/\s]+/\d+|runs:/\S+/\S+)$")] | None = None
    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    head_epochs: Annotated[int, Field(ge=0, le=65_536)]
    rate_decay: Annotated[float, Field(gt=0, le=1)]

    @model_validator(mode="after")
    def one(self) -> "Pretrained":
        """Refuse none and several."""
        given = [name for name in ("file", "https", "mlflow", "package") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'no place'}; write one of file, https, mlflow, package")
        return self

    @property
    def source(self) -> str:
        """Where the weights are, for people."""
        return self.file or self.https or self.mlflow or f"package {self.package}"


def start(network: Any, architecture: str, pretrained: Pretrained) -> None:
    """Give a network the weights of others, all but its head's; `ValueError` where they are others or do not fit."""
    import torch

    published = getattr(networks.network(architecture), "published", lambda name: None)
    given = tensors(bring(pretrained), pretrained.source)
    wanted = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(HEAD)}
    found = given if wanted.keys() <= given.keys() else {published(name) or name: each for name, each in given.items()}
    wrong = [
        f"'{name}' is {list(found[name].shape) if name in found else 'not there'}, wanted {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name not in found or found[name].shape != tensor.shape
    ]
    if wrong:
        raise ValueError(
            f"{pretrained.source}: {len(wrong)} of {len(wanted)} tensors do not fit '{architecture}' "
            f"({wrong[0]}); choose the network, its knobs and prepare.input.channels as they were trained"
        )
    with torch.no_grad():
        network.load_state_dict({name: found[name] for name in wanted}, strict=False)


def bring(pretrained: Pretrained) -> bytes:
    """Return the file that the SHA-256 names; `ValueError` where it is not there."""
    where = "params.yaml: train.pretrained"
    try:
        files = candidates(pretrained)
    except (OSError, HTTPException) as error:
        raise ValueError(f"{where}: {pretrained.source}: {error}") from None
    hashes = [digest.of_bytes(content) for content in files]
    if pretrained.sha256 not in hashes:
        shown = ", ".join(hashes) or f"none: there is no {', '.join(SUFFIXES)}"
        raise ValueError(f"{where}: {pretrained.source}: SHA-256 is {shown}; params.yaml wants {pretrained.sha256}")
    return files[hashes.index(pretrained.sha256)]


def candidates(pretrained: Pretrained) -> list[bytes]:
    """Read the files that may be meant."""
    if pretrained.file:
        return [Path(pretrained.file).read_bytes()]
    if pretrained.https:
        with urllib.request.urlopen(pretrained.https, timeout=TIMEOUT_S) as answer:
            return [answer.read()]
    if pretrained.mlflow:
        return from_mlflow(pretrained.mlflow)
    try:
        files = importlib.metadata.files(pretrained.package or "") or []
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"params.yaml: train.pretrained.package: {pretrained.package} is not installed; add it to the dependencies "
            "in pyproject.toml and run `make lock`"
        ) from None
    return [Path(str(each.locate())).read_bytes() for each in files if each.suffix in SUFFIXES]


def from_mlflow(address: str) -> list[bytes]:
    """Download the weights of a registered model's run, or what a path of a run holds; `ValueError` says why not."""
    import tempfile

    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    settings.quiet()
    client = MlflowClient(settings.tracking_uri())
    try:
        if address.startswith("models:/"):
            name, version = address.removeprefix("models:/").split("/")
            run, path = str(client.get_model_version(name, version).run_id), "weights"
        else:
            run, path = address.removeprefix("runs:/").split("/", 1)
        with tempfile.TemporaryDirectory() as aside:
            taken = Path(client.download_artifacts(run, path, aside))
            files = sorted(taken.rglob("*")) if taken.is_dir() else [taken]
            return [file.read_bytes() for file in files if file.suffix in SUFFIXES]
    except MlflowException as error:
        raise ValueError(f"params.yaml: train.pretrained.mlflow: {address}: {error.message}") from None


def tensors(content: bytes, source: str) -> dict[str, Any]:
    """Return the tensors of a file, by name; a pickle that holds anything else is refused, not run."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(content))
    except SafetensorError:
        pass
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # what a file of any kind makes torch raise is no closed list
        raise ValueError(f"{source}: no weights that can be read safely: {str(error).splitlines()[0]}") from None
    if not isinstance(state, dict) or not all(isinstance(each, torch.Tensor) for each in state.values()):
        raise ValueError(f"{source}: no plain table of tensors (a `state_dict`)")
    return state
