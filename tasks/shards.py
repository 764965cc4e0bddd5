"""Tar shards of labelled samples, with the index that DALI's WebDataset reader wants."""

import io
import itertools
import struct
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

SUFFIXES = ("sample", "label")


def write(folder: Path, split: str, samples: Iterable[tuple[bytes, int]], shard_size: int) -> int:
    """Pack samples into `<split>-NNNNN.tar` and `.idx`; return how many there are.

    A sample is two members, `NNNNNNNN.sample` (encoded bytes) and `.label` (int32, little endian). The bytes of a shard
    depend on its samples only.
    """
    stream, count = iter(samples), 0
    while batch := list(itertools.islice(stream, shard_size)):
        write_shard(folder / f"{split}-{count // shard_size:05d}.tar", count, batch)
        count += len(batch)
    return count


def write_shard(path: Path, first: int, samples: Sequence[tuple[bytes, int]]) -> None:
    """Write one tar and its index (DALI's `wds2idx` format, version 1.2) beside it."""
    index = [f"v1.2 {len(samples)}"]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:
        for number, (data, label) in enumerate(samples, start=first):
            components = []
            for suffix, payload in zip(SUFFIXES, (data, struct.pack("<i", label)), strict=True):
                member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                member.size = len(payload)
                components.append(f"{suffix} {shard.offset + tarfile.BLOCKSIZE} {len(payload)} {member.name}")
                shard.addfile(member, io.BytesIO(payload))
            index.append(" ".join(components))
    path.with_suffix(".idx").write_text("\n".join(index) + "\n")


def paths(folder: Path, split: str) -> list[Path]:
    """Return the shards of a split, in order; `ValueError` where it has none."""
    found = sorted(folder.glob(f"{split}-*.tar"))
    if not found:
        raise ValueError(f"{folder}: no shard of split '{split}'; run the prepare stage")
    return found


def read(folder: Path, split: str) -> Iterator[tuple[bytes, int]]:
    """Yield (encoded bytes, label) of a split, in order."""
    for file, start, size, label in members(folder, split):
        file.seek(start)
        yield file.read(size), label


def labels(folder: Path, split: str) -> Iterator[int]:
    """Yield the labels of a split, in order."""
    return (label for *_, label in members(folder, split))


def members(folder: Path, split: str) -> Iterator[tuple[BinaryIO, int, int, int]]:
    """Yield each sample's file, where its bytes begin in it, how many they are, and its label."""
    for path in paths(folder, split):
        with path.open("rb") as file:
            for line in path.with_suffix(".idx").read_text().splitlines()[1:]:
                _, start, size, _, _, label_start, label_size, _ = line.split()
                file.seek(int(label_start))
                yield file, int(start), int(size), struct.unpack("<i", file.read(int(label_size)))[0]
