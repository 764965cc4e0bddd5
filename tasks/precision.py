"""Which precision `auto` is: mixed where the device computes it in hardware, float32 elsewhere."""

from tasks import target

FAST = {"avx512_bf16", "amx_bf16"}  # CPUs without are ten times slower in bf16 than in float32


def asked(precision: str, device: str) -> str:
    """Return what to ask Lightning for."""
    if precision != "auto":
        return precision
    return "16-mixed" if device == "gpu" or FAST & set(target.cpu()["instruction_sets"]) else "32-true"
