"""The log of sampled answers, for drift monitoring: bounded, and never of the samples themselves.

`package` copies this file beside model.py. flows/observed.py reads what it leaves.
"""

import fcntl
import json
import os
import random
import time
from collections import deque
from pathlib import Path

import numpy as np

MAX_WAITING = 10_000  # lines
MAX_WAITING_BYTES = 64_000_000  # of samples
CHUNK = 64  # samples whose statistics are taken at once


class Log:
    """Sampled answers of a pipeline as lines of JSON in two files, never more than `max_bytes` together.

    All models of a pipeline, in whichever process, write to the same: `NAME.jsonl`, and once it has half of the bytes
    it takes the place of `NAME.1.jsonl`. What can't be written now (no space, another one writes) waits or is dropped.
    """

    def __init__(self, folder, name, version, classes, sample, max_bytes, keep):
        """Write below `folder` a share `sample` of the answers; keep: outputs, or statistics of the inputs, too."""
        self.now, self.before, self.lock = (Path(folder, f"{name}.{end}") for end in ("jsonl", "1.jsonl", "lock"))
        self.version, self.classes, self.sample, self.half, self.keep = version, classes, sample, max_bytes // 2, keep
        self.noted, self.waiting = deque(), []  # samples, and lines
        self.dropped = self.lost = self.told = 0

    def note(self, inputs, scores):
        """Choose among samples; a copy of the chosen waits in memory, and never much."""
        for row in range(len(scores)):
            if random.random() < self.sample:
                if len(self.noted) < 1 + MAX_WAITING_BYTES // inputs[row].nbytes:
                    self.noted.append((time.time(), inputs[row].copy(), scores[row]))
                else:
                    self.dropped += 1

    def write(self):
        """Write what waits, from one thread alone; return how many samples were dropped since the last time."""
        while self.noted:
            self.waiting += self.lines([self.noted.popleft() for _ in range(min(CHUNK, len(self.noted)))])
        try:
            self.append(self.waiting)
        except OSError:
            self.lost += len(self.waiting)
            self.waiting = []
        self.lost += len(self.waiting[MAX_WAITING:])
        del self.waiting[MAX_WAITING:]
        before, self.told = self.told, self.lost + self.dropped
        return self.told - before

    def lines(self, noted):
        """Return what is kept of samples; the statistics are those of each channel, or of a vector as a whole."""
        contents = []
        for at, _, scores in noted:
            best = int(scores.argmax())
            content = {"time": round(at, 3), "version": self.version, "label": self.classes[best]}
            contents.append(content | {"confidence": digits(scores[best]), "scores": digits(scores)})
        if self.keep == "statistics":
            x = np.stack([x for _, x, _ in noted])
            channels = x.reshape(len(x), x.shape[1] if x.ndim > 2 else 1, -1).astype(np.float64)
            found = {name: getattr(channels, name)(axis=2) for name in ("mean", "std", "min", "max")}
            for row, content in enumerate(contents):
                content["input"] = {name: digits(values[row]) for name, values in found.items()}
        return [(json.dumps(content, separators=(",", ":")) + "\n").encode() for content in contents]

    def append(self, lines):
        """Take lines off a list and append them whole, unless another process does just now.

        `OSError` where they can't be written.
        """
        if not lines:
            return
        with self.lock.open("w") as turn:
            try:
                fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # they wait: who holds the lock may hang
            while lines:
                del lines[: self.fill(lines)]

    def fill(self, lines):
        """Append as many lines as the file takes, at least one; return how many. A full file makes room first."""
        size = self.now.stat().st_size if self.now.exists() else 0
        if size and size + len(lines[0]) > self.half:
            self.make_room(size)
            size = 0
        ends = np.cumsum([len(line) for line in lines])
        count = max(1, int(np.searchsorted(ends, self.half - size, side="right")))
        handle = os.open(self.now, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            text = b"".join(lines[:count])
            if os.write(handle, text) < len(text):
                os.ftruncate(handle, size)  # the disk is full: no half lines
                raise OSError(f"{self.now}: no space")
        finally:
            os.close(handle)
        return count

    def make_room(self, size):
        """Let the older half go; a file that was written under a larger bound goes, too."""
        if size > self.half:
            self.now.unlink()
        else:
            self.now.replace(self.before)
        if self.before.exists() and self.before.stat().st_size > self.half:
            self.before.unlink()


def digits(values):
    """Return numbers as a float32 knows them: seven digits."""
    rounded = [float(f"{value:.7g}") for value in np.atleast_1d(values).tolist()]
    return rounded if np.ndim(values) else rounded[0]
