"""TensorRT for RTX: engines built ahead of time, without a GPU; running them needs one of the targets."""

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict

from tasks import gpu, objection, params, trt

DEVICE = "gpu"
DIALECT = "tensorrt"
PRECISIONS = ("fp32", "fp16", "int8")
SUFFIX = ".rtx"
SERVED = False  # Triton's tensorrt_plan backend does not load such engines
DISTRIBUTION = "tensorrt-rtx-cu13-libs"
TITLE = "TensorRT for RTX"
# By observation of 1.7's engines: a header of 64 bytes, and what each bit of its mask of targets stands for.
MAGIC, HEADER = b"vtrt", 64
TARGETS = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
KNOWN = tuple(int(target.replace(".", "")) for target in TARGETS)  # as in params.yaml
NEWER = 1 << len(TARGETS)  # "and later", as the library's documentation says of its default


def buildable(capabilities: list[int]) -> list[int]:
    """Return compute capabilities that the library builds for; for use as a validator, before any stage runs."""
    for capability in capabilities:
        if capability not in KNOWN:
            raise ValueError(
                f"{TITLE} does not build for {str(capability)[:40]}; it does for {', '.join(map(str, KNOWN))}"
            )
    return capabilities


class Options(BaseModel):
    """Knobs: `compute_capabilities` as in [86, 89, 120]; with none the library's default, which is 8.0 and later.

    Turing, 75, has to be named, and the library refuses FP32 matrix products for it: it suits FP16 alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    compute_capabilities: Annotated[list[int], AfterValidator(params.distinct), AfterValidator(buildable)]


class Header(NamedTuple):
    """What an engine file says of itself."""

    version: str
    targets: list[str]
    newer: bool  # GPUs newer than any of the targets, too

    def __str__(self) -> str:
        """Name the targets."""
        return ", ".join(self.targets) + (" or newer" if self.newer else "")


def build(source: Path, out: Path, max_batch: int, options: Options) -> dict[str, Any]:
    """Write a serialised engine for batches of 1 to `max_batch`; return facts about it.

    Precision is the ONNX file's. `ValueError` carries the parser's or builder's own words.
    """
    import tensorrt_rtx_bindings as library

    wanted = targets(library, options.compute_capabilities)

    def configure(config: Any) -> None:
        config.num_compute_capabilities = len(wanted)
        for index, target in enumerate(wanted):
            config.set_compute_capability(target, index)

    try:
        built = trt.build(library, TITLE, source, max_batch, configure)
    except ValueError as error:
        if "SM75" not in str(error):
            raise
        raise ValueError(f"{error}; take 75 out of compute_capabilities, or build fp16 alone") from error
    out.write_bytes(built.plan)
    found = header(out)
    cuda = next((str(n) for n in range(12, 20) if [*metadata.distributions(name=f"tensorrt-rtx-cu{n}-bindings")]), None)
    return {
        "versions": {"tensorrt_rtx": library.__version__, "cuda": cuda},
        "flags": {"strongly_typed": True, "compute_capabilities": found.targets, "newer": found.newer},
        "batch": built.batch,
        "layers": built.layers,
        "runs_on": f"GPUs of compute capability {found}, by {TITLE} {library.__version__} alone",
    }


def targets(library: Any, capabilities: list[int]) -> list[Any]:
    """Return the library's names of compute capabilities; `ValueError` lists those it has."""
    members = library.ComputeCapability.__members__.items()
    known = {int(name.removeprefix("SM")): target for name, target in members if name.startswith("SM")}
    for capability in capabilities:
        if capability not in known:
            possible = ", ".join(str(each) for each in sorted(known))
            raise ValueError(
                f"compute_capabilities: {TITLE} {library.__version__} does not build for {capability}; "
                f"it does for {possible}"
            )
    return [known[capability] for capability in capabilities]


def header(engine: Path) -> Header:
    """Read the header of an engine file; `ValueError` where it is truncated or something else."""
    with engine.open("rb") as file:
        first = file.read(HEADER)
    size = engine.stat().st_size
    if len(first) < HEADER or not first.startswith(MAGIC):
        raise ValueError(f"{engine.name}: no engine of {TITLE}, by its first {len(first)} bytes; build it again")
    stated = int.from_bytes(first[16:24], "little")
    if stated != size:
        raise ValueError(f"{engine.name}: {size:,} bytes, but its header says {stated:,}; build it again")
    mask = int.from_bytes(first[32:36], "little")
    names = [name for bit, name in enumerate(TARGETS) if mask & 1 << bit]
    return Header(".".join(str(part) for part in first[24:28]), names, bool(mask & NEWER))


def objections(engine: Path, facts: dict[str, Any], target: dict[str, Any]) -> list[str]:
    """Return why a machine can't load an engine: an engine fits its own release and targets alone."""
    try:
        found = header(engine)
    except ValueError as error:
        return [str(error)]
    reasons = []
    if not objection.same(found.version, facts["versions"]["tensorrt_rtx"]):
        reasons.append(
            f"{engine.name} is by {TITLE} {found.version}, its facts by {facts['versions']['tensorrt_rtx']}; "
            "build it again"
        )
    reasons += objection.version(TITLE, found.version, target["versions"].get("tensorrt_rtx"))
    device = target["gpu"]
    if device is None:
        return [*reasons, "the target has no NVIDIA GPU"]
    reasons += objection.driver(facts["versions"].get("cuda"), device)
    own = objection.release(device["compute_capability"])
    newer = found.newer and own > objection.release(TARGETS[-1])
    if device["compute_capability"] not in found.targets and not newer:
        reasons.append(objection.capability(str(found), device))
    return reasons


def missing() -> str | None:
    """Say why engines can't run on this machine; None where they can."""
    return gpu.missing()


def load(engine: Path, threads: int) -> Callable[[Any], Any]:
    """Return inference on the first GPU; written against the documented API, not run on a GPU yet."""
    import tensorrt_rtx_bindings as library

    return trt.load(library, TITLE, engine)
