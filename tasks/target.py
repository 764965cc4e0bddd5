"""The machine that an engine is to run on, as facts: CPU, GPU and driver, and the versions of the runtimes."""

import ctypes
import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import backends

INSTRUCTION_SETS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
DOT_PRODUCTS = {"avx_vnni", "avx512_vnni", "amx_int8"}  # INT8 products summed in 32 bits
CUDA = "libcuda.so.1"
MAJOR, MINOR = 75, 76  # cuDeviceGetAttribute: the two parts of the compute capability


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver: the CUDA version it is for and its GPUs, or why none answers."""

    error: str | None
    cuda: str
    gpus: list[dict[str, Any]]  # name, compute_capability "8.9", memory_bytes


def target() -> dict[str, Any]:
    """Return this machine as `engineworks check --on` takes it; `gpu` is the first one, null where there is none."""
    found = driver()
    gpu = None
    if found and found.gpus:
        gpu = found.gpus[0] | {"driver_cuda": found.cuda}
    return {**cpu(), "gpu": gpu, "versions": versions()}


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


def driver() -> Driver | None:
    """Ask NVIDIA's driver, without torch; None where there is none."""
    try:
        cuda = ctypes.CDLL(CUDA)
    except OSError:
        return None
    status = cuda.cuInit(0)
    if status:
        return Driver(error_name(cuda, status), "", [])
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGetCount(ctypes.byref(count))
    number = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Driver(None, number, [device(cuda, index) for index in range(count.value)])


def error_name(cuda: ctypes.CDLL, status: int) -> str:
    """Return what the driver calls an error."""
    name = ctypes.c_char_p()
    cuda.cuGetErrorName(status, ctypes.byref(name))
    return name.value.decode() if name.value else f"error {status}"


def device(cuda: ctypes.CDLL, index: int) -> dict[str, Any]:
    """Return a GPU's name, compute capability and memory."""
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(handle), index)
    cuda.cuDeviceGetName(name, len(name), handle)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, handle)
    return {
        "name": name.value.decode(),
        "compute_capability": f"{major.value}.{minor.value}",
        "memory_bytes": memory.value,
    }
