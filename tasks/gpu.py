"""NVIDIA's GPUs, asked through the driver's own library: no torch, no CUDA toolkit."""

import ctypes
import importlib.metadata
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

DRIVER = "libcuda.so.1"
MAJOR, MINOR = 75, 76  # cuDeviceGetAttribute: the two parts of the compute capability


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver: the CUDA version it is for and its GPUs, or why none answers."""

    error: str | None
    cuda: str
    gpus: list[dict[str, Any]]  # name, compute_capability "8.9", memory_bytes


def driver() -> Driver | None:
    """Ask NVIDIA's driver, without torch; None where there is none.

    A process of its own asks: CUDA answers no child that was forked from one that had asked (`footprint`).
    """
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return None
    return Driver(**json.loads(subprocess.check_output([sys.executable, "-I", "-S", __file__], text=True)))


def asked(cuda: ctypes.CDLL) -> Driver:
    """Ask the driver from this process."""
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


def first() -> dict[str, Any] | None:
    """Return name, compute capability, memory and the driver's CUDA version of the first GPU; None without one."""
    found = driver()
    return found.gpus[0] | {"driver_cuda": found.cuda} if found and found.gpus else None


def missing() -> str | None:
    """Say why nothing runs on a GPU here: no driver, no GPU, or a torch without CUDA; None where it can."""
    found = driver()
    if found is None:
        return "no NVIDIA driver on this machine"
    if not found.gpus:
        return "an NVIDIA driver, but no GPU answers on this machine"
    torch = importlib.metadata.version("torch")
    return f"torch {torch} is built without CUDA" if torch.endswith("+cpu") else None


if __name__ == "__main__":
    print(json.dumps(asdict(asked(ctypes.CDLL(DRIVER)))))
