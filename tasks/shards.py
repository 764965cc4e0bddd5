"""Tar shards of labelled samples, with the index that DALI's WebDataset reader wants."""

import io
import struct
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

SUFFIXES = ("image", "label")


def write(folder: Path, split: str, samples: Iterable[tuple[bytes, int]], shard_size: int) -> int:
    """Pack samples into `<split>-NNNNN.tar` and `.idx`; return their number.

    A sample is two members, `NNNNNNNN.image` (encoded bytes) and `.label` (int32, little endian). The bytes of a shard
    depend on its samples only.
    """
    count, shard, index = 0, None, []
    for data, label in samples:
        if count % shard_size == 0:
            close(shard, index)
            shard, index = (
                tarfile.open(folder / f"{split}-{count // shard_size:05d}.tar", "w", format=tarfile.USTAR_FORMAT),
                [],
            )
        assert shard is not None
        components = []
        for suffix, payload in zip(SUFFIXES, (data, struct.pack("<i", label)), strict=True):
            name = f"{count:08d}.{suffix}"
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            start = shard.offset + tarfile.BLOCKSIZE
            shard.addfile(member, io.BytesIO(payload))
            components.append(f"{suffix} {start} {len(payload)} {name}")
        index.append(" ".join(components))
        count += 1
    close(shard, index)
    return count


def close(shard: tarfile.TarFile | None, index: list[str]) -> None:
    """Finish a shard and write its index (DALI's `wds2idx` format, version 1.2) beside it."""
    if shard is None:
        return
    shard.close()
    Path(str(shard.name)).with_suffix(".idx").write_text("\n".join([f"v1.2 {len(index)}", *index]) + "\n")


def paths(folder: Path, split: str) -> list[Path]:
    """Return the shards of a split, in order; `ValueError` where it has none."""
    found = sorted(folder.glob(f"{split}-*.tar"))
    if not found:
        raise ValueError(f"{folder}: no shard of split '{split}'; run the prepare stage")
    return found


def read(folder: Path, split: str) -> Iterator[tuple[bytes, int]]:
    """Yield (encoded bytes, label) of a split, in order."""
    for path in paths(folder, split):
        with path.open("rb") as file:
            for line in path.with_suffix(".idx").read_text().splitlines()[1:]:
                _, start, size, _, _, label_start, label_size, _ = line.split()
                file.seek(int(start))
                data = file.read(int(size))
                file.seek(int(label_start))
                yield data, struct.unpack("<i", file.read(int(label_size)))[0]
