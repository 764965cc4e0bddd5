"""The machine that an engine is to run on, as facts: CPU, GPU and driver, and the versions of the runtimes."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from tasks import backends, gpu

INSTRUCTION_SETS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
DOT_PRODUCTS = {"avx_vnni", "avx512_vnni", "amx_int8"}  # INT8 products summed in 32 bits


def target() -> dict[str, Any]:
    """Return this machine as `engineworks check --on` takes it; `gpu` is the first one, null where there is none."""
    return {**cpu(), "gpu": gpu.first(), "versions": versions()}


def cpu() -> dict[str, Any]:
    """Return the CPU's name, the instruction sets that matter here, and the number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    return {
        "cpu": facts.get("model name", platform.processor()),
        "architecture": platform.machine(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "cores": os.cpu_count(),
    }


def int8_arithmetic(facts: dict[str, Any]) -> str:
    """Return `exact`, or `saturating`: x86 without VNNI sums INT8 products in 16 bits, which costs accuracy.

    Source: ONNX Runtime, "Quantize ONNX models", section on U8S8 and AVX2.
    """
    x86 = facts["architecture"] in ("x86_64", "AMD64")
    return "saturating" if x86 and not DOT_PRODUCTS & set(facts["instruction_sets"]) else "exact"


def versions() -> dict[str, str | None]:
    """Return the version of each backend's library here, null where it is not installed."""
    found: dict[str, str | None] = {}
    for name in backends.names():
        try:
            found[name] = importlib.metadata.version(backends.backend(name).DISTRIBUTION)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
