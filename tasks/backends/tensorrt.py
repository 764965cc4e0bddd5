"""TensorRT: plans built and timed on the GPU they are for; its library is an extra of this project's packages."""

import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks import gpu, objection, settings, trt

DEVICE = "gpu"
DIALECT = "tensorrt"
PRECISIONS = ("fp32", "fp16", "int8")
SUFFIX = ".plan"
SERVED = False  # by the Triton that this project installs; NVIDIA's container has the tensorrt_plan backend
DISTRIBUTION = "tensorrt"
TITLE = "TensorRT"
INSTALL = 'pip install "engineworks[gpu]"'
CACHES = settings.STATE / "timing"
# The start of a plan, as NVIDIA's trtexec reads it: tag, serialisation version, and for version 0 the library's at 24.
MAGIC, HEADER = b"ftrt", 28
AMPERE = [8, 0]


class Options(BaseModel):
    """Knobs: which other GPUs and later releases a plan has to fit, and the memory that building may take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"]
    version_compatible: bool
    workspace_mb: Annotated[int, Field(ge=1, le=1_000_000)]


def build(source: Path, out: Path, max_batch: int, options: Options) -> dict[str, Any]:
    """Write a plan for batches of 1 to `max_batch`, and beside it the timing cache; return facts about it.

    `ValueError` where the library or a GPU is missing, or with the parser's or builder's own words.
    """
    try:
        import tensorrt as library
    except (ImportError, OSError) as error:
        raise ValueError(
            f"the backend tensorrt needs NVIDIA's TensorRT, and it can't be imported ({error}): {INSTALL}, "
            "or take tensorrt out of `backends` in params.yaml"
        ) from error
    device = gpu.first()
    if device is None:
        raise ValueError(
            f"TensorRT builds on the GPU it builds for, and there is {gpu.missing()}: build on a machine with one, "
            "or take tensorrt out of `backends` in params.yaml"
        )
    return construct(library, device, source, out, max_batch, options)


def construct(
    library: Any, device: dict[str, str], source: Path, out: Path, max_batch: int, options: Options
) -> dict[str, Any]:
    """Write plan and timing cache with this library on this GPU; return facts about the plan."""
    kept = CACHES / f"{re.sub('[^A-Za-z0-9]+', '-', device['name'])}-{library.__version__}.cache"

    def configure(config: Any) -> None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
        level = getattr(library.HardwareCompatibilityLevel, options.hardware_compatibility.upper())
        config.hardware_compatibility_level = level
        if options.version_compatible:
            config.set_flag(library.BuilderFlag.VERSION_COMPATIBLE)
        remember(config, kept)

    built = trt.build(library, TITLE, source, max_batch, configure)
    out.write_bytes(built.plan)
    timings = bytes(built.config.get_timing_cache().serialize())
    out.with_suffix(".timing").write_bytes(timings)
    keep(kept, timings)
    return {
        "versions": {"tensorrt": library.__version__},
        "flags": {"strongly_typed": True, **options.model_dump()},
        "batch": built.batch,
        "layers": built.layers,
        "gpu": device,
        "runs_on": f"{fitting(device, options)}, by {TITLE} {library.__version__}"
        f"{' or later' if options.version_compatible else ' alone'}",
    }


def fitting(device: dict[str, Any], options: Options) -> str:
    """Name the GPUs that a plan built on this one fits."""
    capability = f"GPUs of compute capability {device['compute_capability']}"
    return {
        "none": f"the GPU {device['name']!r}",
        "ampere_plus": "GPUs of compute capability 8.0 or newer",
        "same_compute_capability": capability,
    }[options.hardware_compatibility]


def remember(config: Any, kept: Path) -> None:
    """Take over the timings of earlier builds; those that don't fit are left, and every tactic is timed anew."""
    for content in (kept.read_bytes() if kept.exists() else b"", b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def keep(kept: Path, timings: bytes) -> None:
    """Keep timings for the next build, whole or not at all: builds may end at the same time."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    aside = kept.with_name(f"{kept.name}.{os.getpid()}.partial")
    aside.write_bytes(timings)
    aside.rename(kept)


def header(engine: Path) -> str | None:
    """Return the version of TensorRT that wrote a plan; `ValueError` where it is truncated or something else.

    None where the plan is laid out in a way that this does not know.
    """
    with engine.open("rb") as file:
        first = file.read(HEADER)
    if len(first) < HEADER or not first.startswith(MAGIC):
        raise ValueError(f"{engine.name}: no plan of {TITLE}, by its first {len(first)} bytes; build it again")
    return ".".join(str(part) for part in first[24:28]) if first[4:8] == bytes(4) else None


def objections(engine: Path, facts: dict[str, Any], target: dict[str, Any]) -> list[str]:
    """Return why a machine can't load a plan, or why NVIDIA does not promise it can."""
    built, flags = facts["versions"]["tensorrt"], facts["flags"]
    try:
        found = header(engine)
    except ValueError as error:
        return [str(error)]
    reasons = []
    if found is not None and not objection.same(found, built):
        reasons.append(f"{engine.name} is by {TITLE} {found}, its facts by {built}; build it again")
    reasons += objection.version(TITLE, built, target["versions"].get("tensorrt"), flags["version_compatible"])
    device = target["gpu"]
    if device is None:
        return [*reasons, "the target has no NVIDIA GPU"]
    return [*reasons, *unfit(facts["gpu"], device, flags["hardware_compatibility"])]


def unfit(built: dict[str, str], device: dict[str, str], level: str) -> list[str]:
    """Return why a GPU is none of those a plan was built for."""
    if level == "ampere_plus":
        fits = objection.release(device["compute_capability"]) >= AMPERE
        return [] if fits else [objection.capability("8.0 or newer", device)]
    if built["compute_capability"] != device["compute_capability"]:
        return [objection.capability(built["compute_capability"], device)]
    if level == "none" and built["name"] != device["name"]:
        remedy = "build with hardware_compatibility: same_compute_capability"
        return [f"built for the GPU {built['name']!r} alone, the target has {device['name']!r}; {remedy}"]
    return []


def missing() -> str | None:
    """Say why plans can't run on this machine; None where they can."""
    if importlib.util.find_spec("tensorrt") is None:
        return f"TensorRT is not installed: {INSTALL}"
    return gpu.missing()


def load(engine: Path, threads: int) -> Callable[[Any], Any]:
    """Return inference on the first GPU; written against the documented API, not run on a GPU yet."""
    import tensorrt as library

    # A version-compatible plan brings NVIDIA's lean runtime along; plans are our own, and their hash is recorded.
    return trt.load(library, TITLE, engine, host_code=True)
