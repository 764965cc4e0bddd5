"""An actor of a Ray cluster: the live preprocessing and engine, which turn paths into rows; it needs no server."""

import importlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows import rows
from flows.golden import softmax
from flows.reading import Reader, Row

BATCH = 64  # files that are in memory at a time
BLOCK = 512  # files of one task: each costs Ray some 10 ms beside them


class Engine:
    """What is live, loaded from its own bytes, `engine/...` and `preprocess/...` by name, that Ray holds."""

    def __init__(self, reader: Reader, version: int, parts: list[Any]) -> None:
        """Load both parts; `parts` holds one reference, so that Ray copies them once a machine."""
        import ray

        self.reader, self.version = reader, version
        self.aside = tempfile.TemporaryDirectory()
        for name, content in ray.get(parts[0]).items():
            path = Path(self.aside.name, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.preprocess, backend = self.module("preprocess/preprocess.py"), self.module("engine/backend.py")
        self.spec = json.loads(Path(self.aside.name, "engine/spec.json").read_bytes())
        self.predict = backend.load(Path(self.aside.name, f"engine/engine{backend.SUFFIX}"), 1)
        self.pipeline = self.preprocess.serving_pipeline(self.spec, BATCH, 1)
        self.kind = self.spec["workload"].partition("/")[0]
        check = f"tasks.modalities.{self.kind}.check"
        self.check = importlib.import_module(check) if importlib.util.find_spec(check) else None

    def module(self, name: str) -> Any:
        """Import a file of the live parts."""
        found = importlib.util.spec_from_file_location(Path(name).stem, Path(self.aside.name, name))
        assert found is not None and found.loader is not None
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        return module

    def __call__(self, batch: Any) -> Any:
        """Turn an Arrow table of paths into one of rows, in their order."""
        paths = [Path(os.fsdecode(path)) for path in batch["path"].to_pylist()]
        found: dict[Path, Row] = {}
        for start in range(0, len(paths), BATCH):
            found |= self.scored(paths[start : start + BATCH])
        return rows.table([found[path] for path in paths])

    def scored(self, paths: list[Path]) -> dict[Path, Row]:
        """Return a row per file."""
        found: dict[Path, Row] = {}
        data: dict[Path, bytes] = {}
        for path in paths:
            try:
                data[path] = self.reader.sound(path)
            except ValueError as error:
                found[path] = Row(self.reader.name(path), error=str(error))
        for portion in self.portions(data):
            found |= self.answers(portion)
        return found

    def portions(self, data: dict[Path, bytes]) -> Iterator[dict[Path, bytes]]:
        """Cut files so that no more is decoded at once than the server would."""
        portion: dict[Path, bytes] = {}
        total = 0
        for path, content in data.items():
            size = self.check.check(content) if self.check else 0
            if portion and self.check and total + size > self.check.LARGEST:
                yield portion
                portion, total = {}, 0
            portion[path] = content
            total += size
        if portion:
            yield portion

    def answers(self, data: dict[Path, bytes]) -> dict[Path, Row]:
        """Return a row per sound file; what DALI can't decode all the same is found by halving."""
        try:
            x = self.preprocess.run(self.pipeline, list(data.values()))
        except RuntimeError:
            self.pipeline = self.preprocess.serving_pipeline(self.spec, BATCH, 1)  # one that failed can't be used again
            return self.halved(data)
        scores = softmax(self.predict(x))
        labels = [self.spec["classes"][i] for i in scores.argmax(axis=1)]
        return {
            path: Row(self.reader.name(path), label, float(each.max()), each, self.version)
            for path, label, each in zip(data, labels, scores, strict=True)
        }

    def halved(self, data: dict[Path, bytes]) -> dict[Path, Row]:
        """Answer two halves, or say of one file that it can't be decoded, as the server would."""
        items, middle = list(data.items()), len(data) // 2
        if middle:
            return self.answers(dict(items[:middle])) | self.answers(dict(items[middle:]))
        ((path, content),) = items
        remedy = f"send a complete {self.preprocess.FORMATS} file"
        said = f"the {self.kind} ({len(content):,} bytes) can't be decoded: {remedy}"
        return {path: Row(self.reader.name(path), error=said)}
