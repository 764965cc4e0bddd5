"""Checkpoints that survive a kill: whole or not there, each with its SHA-256 beside it, the last two kept."""

import io
import os
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from tasks import ranks
from tasks.digest import sha256

KEPT = 2


class Durable(TorchCheckpointIO):
    """How Lightning writes and reads a checkpoint here."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint and its SHA-256, then drop all but the newest."""
        import torch

        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        target = Path(path)
        write(target, buffer.getvalue())
        write(mark(target), sha256(target).encode())
        for old in sorted(target.parent.glob("step-*.ckpt"))[:-KEPT]:
            mark(old).unlink(missing_ok=True)
            old.unlink()

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> Any:
        """Read tensors and plain values, never code; the first process's file, which others may not have."""
        import torch

        if not ranks.alone():
            path = io.BytesIO(ranks.told(Path(path).read_bytes() if ranks.first() else b""))
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


def write(target: Path, content: bytes) -> None:
    """Write beside the target, force it to the disk, rename."""
    aside = target.with_name(f"{target.name}.partial")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def mark(path: Path) -> Path:
    """Return where a checkpoint's SHA-256 lies."""
    return path.with_name(f"{path.name}.sha256")


def path(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies; names sort by step."""
    return folder / f"step-{step:09d}.ckpt"


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint that is whole, None where there is none; damaged ones are named and passed over."""
    for found in sorted(folder.glob("step-*.ckpt"), reverse=True):
        if mark(found).exists() and mark(found).read_text() == sha256(found):
            return found
        print(f"checkpoint {found.name} is damaged; taking the one before", flush=True)
    return None
