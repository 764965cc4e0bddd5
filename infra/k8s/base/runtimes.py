"""Which runtimes this container has, asked of their libraries: a passport is checked against them before Triton starts.

python3 runtimes.py > runtimes.json, in the image that serves; Python's own library is all it needs.
"""

import ctypes
import json
import sys

ONNXRUNTIME = "/opt/tritonserver/backends/onnxruntime/libonnxruntime.so"
TENSORRT = "libnvinfer.so"


class Base(ctypes.Structure):
    """ONNX Runtime's OrtApiBase: two functions."""

    _fields_ = (("api", ctypes.c_void_p), ("version", ctypes.CFUNCTYPE(ctypes.c_char_p)))


def onnxruntime(library):
    """Return ONNX Runtime's version."""
    base = ctypes.CDLL(library).OrtGetApiBase
    base.restype = ctypes.POINTER(Base)
    return base().contents.version().decode()


def tensorrt(library):
    """Return TensorRT's version; one number holds its parts, two digits to each, since release 10 (before: one)."""
    number = ctypes.CDLL(library).getInferLibVersion()
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def found(version, library):
    """Return a library's version, None where it is not here."""
    try:
        return version(library)
    except (OSError, AttributeError) as error:
        print(f"{library}: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    print(json.dumps({"onnxruntime": found(onnxruntime, ONNXRUNTIME), "tensorrt": found(tensorrt, TENSORRT)}))
