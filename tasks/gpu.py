"""The first NVIDIA GPU, asked through the driver's own library: no torch, no CUDA toolkit."""

import ctypes
import importlib.metadata

DRIVER = "libcuda.so.1"
MAJOR, MINOR = 75, 76  # cuDeviceGetAttribute: the two parts of the compute capability


def first() -> dict[str, str] | None:
    """Return name, compute capability and the driver's CUDA version of the first GPU; None where there is none."""
    try:
        cuda = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    handle, major, minor, version = (ctypes.c_int() for _ in range(4))
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(handle), 0):
        return None
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, len(name), handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, handle)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    return {
        "name": name.value.decode(),
        "compute_capability": f"{major.value}.{minor.value}",
        "driver_cuda": f"{version.value // 1000}.{version.value % 1000 // 10}",
    }


def missing() -> str | None:
    """Say why nothing runs on a GPU here: no driver, no GPU, or a torch without CUDA; None where it can."""
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return "no NVIDIA driver on this machine"
    if first() is None:
        return "an NVIDIA driver, but no GPU answers on this machine"
    torch = importlib.metadata.version("torch")
    return f"torch {torch} is built without CUDA" if torch.endswith("+cpu") else None
