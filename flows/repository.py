"""The live model repository's files: versions of the parts side by side, and the public models that point at one."""

import compileall
import os
import shutil
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from flows.serving import MODELS
from tasks.package import VERSION, parts, public

Files = dict[Path, str | None]  # configuration files and their texts; None where there was no file


def names(pipeline: str, version: int) -> list[str]:
    """Name a version's parts on the server: each version is a model of its own, so that none disturbs another."""
    return [f"{part}.{version}" for part in parts(pipeline)]


def versions(pipeline: str) -> set[int]:
    """Return the versions of which a part lies here."""
    return {int(path.suffix[1:]) for part in parts(pipeline) for path in MODELS.glob(f"{part}.*")}


def live_version(pipeline: str) -> int:
    """Return the version that clients are answered by, 0 where nothing is deployed."""
    path = MODELS / pipeline / "config.pbtxt"
    if not path.exists():
        return 0
    return int(parse(path).ensemble_scheduling.step[0].model_name.rpartition(".")[2])


def stage(package: Path, pipeline: str, version: int) -> None:
    """Put a package's parts beside the live version; each appears whole.

    They are compiled here, because Python would add `__pycache__` at the first load, and the server loads a changed
    folder once more.
    """
    MODELS.mkdir(parents=True, exist_ok=True)
    for part, name in zip(parts(pipeline), names(pipeline, version), strict=True):
        aside = MODELS.parent / "staging"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(package / part, aside, copy_function=shutil.copyfile)
        config = parse(aside / "config.pbtxt")
        config.name = name
        write(aside / "config.pbtxt", text_format.MessageToString(config))
        compileall.compile_dir(aside, quiet=2, stripdir=aside)
        sync(aside)
        aside.rename(MODELS / name)


def copy(pipeline: str, version: int, folder: Path) -> None:
    """Leave a version that lies here as a repository of its own, as the package stage once did."""
    folder.mkdir(parents=True)
    for part, name in zip(parts(pipeline), names(pipeline, version), strict=True):
        shutil.copytree(MODELS / name, folder / part, copy_function=shutil.copyfile)
        config = parse(folder / part / "config.pbtxt")
        config.name = part
        write(folder / part / "config.pbtxt", text_format.MessageToString(config))
    for model in public(pipeline):
        config = parse(MODELS / model / "config.pbtxt")
        for step in config.ensemble_scheduling.step:
            step.model_name = step.model_name.rpartition(".")[0]
        config.ClearField("version_policy")
        shutil.copytree(MODELS / model / str(version), folder / model / VERSION)
        write(folder / model / "config.pbtxt", text_format.MessageToString(config))


def sync(folder: Path) -> None:
    """Have the disk hold every file of a folder before its rename does."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def configurations(pipeline: str) -> Files:
    """Remember the public models' configurations, to be put back where a deploy fails."""
    paths = [MODELS / model / "config.pbtxt" for model in public(pipeline)]
    return {path: path.read_text() if path.exists() else None for path in paths}


def point(package: Path, pipeline: str, version: int) -> None:
    """Write the public models so that their next load moves all requests to one version of both parts at once."""
    for model in public(pipeline):
        config = parse(package / model / "config.pbtxt")
        for step in config.ensemble_scheduling.step:
            step.model_name = f"{step.model_name}.{version}"
        config.version_policy.specific.versions[:] = [version]  # a rollback leaves a higher one's folder there
        shutil.copytree(package / model / VERSION, MODELS / model / str(version), dirs_exist_ok=True)
        write(MODELS / model / "config.pbtxt", text_format.MessageToString(config))


def point_back(pipeline: str, before: Files, version: int) -> None:
    """Put the public models back as they were before they pointed at a version."""
    for path, text in before.items():
        shutil.rmtree(path.parent / str(version), ignore_errors=True)
        if text is None:
            shutil.rmtree(path.parent, ignore_errors=True)
        else:
            write(path, text)


def remove(pipeline: str, version: int) -> None:
    """Remove a version's files."""
    for model in names(pipeline, version):
        shutil.rmtree(MODELS / model, ignore_errors=True)
    for model in public(pipeline):
        shutil.rmtree(MODELS / model / str(version), ignore_errors=True)


def write(path: Path, text: str) -> None:
    """Replace a file at once."""
    aside = path.with_suffix(".partial")
    aside.write_text(text)
    aside.rename(path)


def parse(path: Path) -> Any:
    """Read a model's configuration."""
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
