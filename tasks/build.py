"""build: the engines of one backend, one per precision."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tasks import atomic, backends
from tasks.digest import sha256


def build(
    backend: str,
    quantize: Path,
    out: Path,
    *,
    max_batch: Annotated[int, Field(ge=1, le=4096)],
) -> None:
    """Leave an engine file per precision and `build.json` (what each is, where it runs, its hashes) in `out`."""
    module = backends.backend(backend)
    files: dict[str, dict[str, str]] = json.loads((quantize / "quantize.json").read_text())["files"]
    engines: dict[str, dict[str, Any]] = {}
    with atomic.folder(out) as folder:
        for precision, dialects in files.items():
            source = quantize / dialects[module.DIALECT]
            engine = folder / f"{precision}{module.SUFFIX}"
            built_with = module.build(source, engine, max_batch)
            engines[f"{backend}-{precision}"] = {
                "backend": backend,
                "precision": precision,
                "file": engine.name,
                "device": module.DEVICE,
                "sha256": sha256(engine),
                "onnx_sha256": sha256(source),
                "size_bytes": engine.stat().st_size,
                "built_with": built_with,
            }
        atomic.write_json(folder / "build.json", {"engines": engines})
    print(", ".join(f"{facts['precision']} {facts['size_bytes'] / 1e6:.2f} MB" for facts in engines.values()))
