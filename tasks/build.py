"""build: the engines of one backend, one per precision, each with a passport."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tasks import atomic, backends, passport


def build(
    pipeline: str,
    backend: str,
    quantize: Path,
    out: Path,
    *,
    max_batch: Annotated[int, Field(ge=1, le=4096)],
    options: Annotated[Any, backends.OfBackends()],
) -> None:
    """Leave an engine file per precision, its passport beside it, and `build.json` (engine -> file) in `out`.

    `ValueError` carries the parser's or builder's own words.
    """
    module = backends.backend(backend)
    origin = json.loads((quantize / "quantize.json").read_text())
    engines, said = {}, []
    with atomic.folder(out) as folder:
        for precision, dialects in origin["files"].items():
            if precision not in module.PRECISIONS:
                continue
            source, engine = quantize / dialects[module.DIALECT], folder / f"{precision}{module.SUFFIX}"
            begun = time.monotonic()
            built = module.build(source, engine, max_batch, getattr(options, backend, None))
            built["seconds"] = time.monotonic() - begun
            names = {"pipeline": pipeline, "backend": backend, "precision": precision}
            passport.issue(engine, names, source, origin, built)
            engines[f"{backend}-{precision}"] = engine.name
            said.append(f"{precision} {engine.stat().st_size / 1e6:.2f} MB")
        atomic.write_json(folder / "build.json", {"engines": engines})
    print(", ".join(said) or f"{backend} takes none of {', '.join(origin['files'])}")
