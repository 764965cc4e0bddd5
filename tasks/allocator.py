"""How this process gets memory from the system."""

import ctypes
import platform

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # M_... of glibc's <malloc.h>, see mallopt(3)
PAD = 64 << 20  # bytes asked of the system beyond what is wanted


def keep_memory() -> None:
    """Have malloc keep what is freed, for training on a CPU; nothing is done where the C library is not glibc.

    Else each large tensor is mapped anew, its pages zeroed one by one, and unmapped after use: without that a training
    step of an EfficientNet-Lite0 at 224 pixels is 1.36 times as fast (benchmarks/memory.py, n=5, AVX2).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, PAD)):
        mallopt(parameter, value)
