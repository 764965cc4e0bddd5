"""Reasons why a machine can't load an engine: sentences with both values, from facts alone."""

from typing import Any


def release(version: str) -> list[int]:
    """Return the numbers of a version, up to the first part that is none."""
    numbers = []
    for part in version.partition("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return numbers


def same(one: str, other: str) -> bool:
    """Tell whether two versions agree as far as both of them go."""
    pairs = list(zip(release(one), release(other), strict=False))
    return bool(pairs) and all(mine == theirs for mine, theirs in pairs)


def version(title: str, built: str, wanted: str | None, newer_too: bool = False) -> list[str]:
    """Object to another release of the library than the one that built; `newer_too` allows later ones."""
    if wanted is None:
        return [f"built by {title} {built}, the target has none"]
    if same(built, wanted) or (newer_too and release(wanted) >= release(built)):
        return []
    return [f"built by {title} {built}, the target has {wanted}"]


def driver(built_cuda: str | None, gpu: dict[str, Any]) -> list[str]:
    """Object to a driver that is for an older major release of CUDA than the library that built."""
    if built_cuda is None or release(gpu["driver_cuda"])[:1] >= release(built_cuda)[:1]:
        return []
    return [f"built with CUDA {built_cuda}, the driver of the target's GPU {gpu['name']!r} is for {gpu['driver_cuda']}"]


def capability(built: str, gpu: dict[str, Any]) -> str:
    """Say for which compute capabilities an engine was built, and which the target has."""
    return f"built for compute capability {built}, the target's GPU {gpu['name']!r} has {gpu['compute_capability']}"
