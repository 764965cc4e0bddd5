"""The live model repository's files: versions beside each other, one of them pinned by the pipeline's ensemble."""

import compileall
import shutil
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from flows.serving import MODELS
from tasks.package import models

Files = dict[Path, str | None]  # configuration files and their texts; None where there was no file


def configurations(pipeline: str) -> Files:
    """Remember a pipeline's configuration files, to be put back where a deploy fails."""
    paths = [MODELS / model / "config.pbtxt" for model in models(pipeline)]
    return {path: path.read_text() if path.exists() else None for path in paths}


def live_version(pipeline: str) -> int:
    """Return the version that the ensemble is pinned to, 0 where nothing is deployed."""
    path = MODELS / pipeline / "config.pbtxt"
    return parse(path.read_text()).ensemble_scheduling.step[0].model_version if path.exists() else 0


def versions(pipeline: str) -> set[int]:
    """Return the version numbers that lie in any of a pipeline's models."""
    found = (path for model in models(pipeline) for path in (MODELS / model).glob("*/"))
    return {int(path.name) for path in found if path.name.isdigit()}


def stage(package: Path, pipeline: str, version: int) -> None:
    """Put a package's parts beside the live version; each folder appears whole."""
    for model in models(pipeline)[:2]:
        add(package / model / "1", MODELS / model / str(version))
        write(MODELS / model / "config.pbtxt", (package / model / "config.pbtxt").read_text())


def add(source: Path, target: Path) -> None:
    """Copy a version folder into the live repository: made aside, compiled, then renamed.

    Compiled, because Python would add its `__pycache__` at the first load, and a changed folder is loaded once more.
    """
    aside = MODELS.parent / "staging"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside, copy_function=shutil.copyfile)
    compileall.compile_dir(aside, quiet=2, stripdir=aside)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(target)


def pin(package: Path, pipeline: str, version: int) -> None:
    """Write the ensemble so that its next load moves all requests to one version of both parts at once."""
    config = parse((package / pipeline / "config.pbtxt").read_text())
    for step in config.ensemble_scheduling.step:
        step.model_version = version
    add(package / pipeline / "1", MODELS / pipeline / str(version))
    write(MODELS / pipeline / "config.pbtxt", text_format.MessageToString(config))


def put_back(before: Files) -> None:
    """Put configuration files back as they were."""
    for path, text in before.items():
        if text is not None:
            write(path, text)
        else:
            path.unlink(missing_ok=True)


def keep(pipeline: str, wanted: set[int]) -> None:
    """Remove every version folder but those wanted, and a model's folder where none is left."""
    for model in models(pipeline):
        for version in versions(pipeline) - wanted:
            shutil.rmtree(MODELS / model / str(version), ignore_errors=True)
        if not wanted:
            shutil.rmtree(MODELS / model, ignore_errors=True)


def write(path: Path, text: str) -> None:
    """Replace a file at once; one that says the same already keeps its time, so that the server reloads nothing."""
    if path.exists() and path.read_text() == text:
        return
    aside = path.with_suffix(".partial")
    aside.write_text(text)
    aside.rename(path)


def parse(text: str) -> Any:
    """Read a model's configuration."""
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(text, model_config_pb2.ModelConfig())
