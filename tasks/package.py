"""package: a Triton model repository that holds the chosen engine and every line of code that the server runs."""

import hashlib
import importlib
import json
import shutil
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tasks import atomic, backends, container, passport
from tasks.digest import sha256
from tasks.lint import lint
from tasks.params import AtMost

CODE = Path(__file__).parent
SERVER_CODE = CODE.parent / "infra" / "serving" / "repository"
VERSION = "1"
REFERENCE = "reference.json"


def package(
    pipeline: str,
    prepare: Path,
    build: Path,
    select: Path,
    reference: Path,
    out: Path,
    *,
    max_batch_size: Annotated[int, Field(ge=1, le=1024), AtMost("build", "max_batch")],
    max_queue_delay_us: Annotated[int, Field(ge=0, le=1_000_000)],
    instances: Annotated[int, Field(ge=1, le=64)],
    threads: Annotated[int, Field(ge=1, le=1024)],
) -> None:
    """Leave `repository/` (four models), `golden/`, `reference.json` and `package.json`; same inputs, same bytes.

    `container/` is the same for NVIDIA's own Triton container, where one of its backends takes the engine. Where
    `select` chose no engine there is no repository, and package.json says why: deploy reads it and refuses.
    """
    selected = json.loads(select.read_text())
    with atomic.folder(out) as folder:
        if selected["chosen"] is None:
            nothing = {"pipeline": pipeline, "engine": None, "reasons": reasons(selected)}
            atomic.write_json(folder / "package.json", nothing)
            print("no engine to package")
            return
        engine, spec = engine_of(selected["chosen"], build), prepare / "spec.json"
        facts = json.loads(spec.read_text())
        write_models(folder / "repository", pipeline, spec, engine, selected["chosen"].split("-")[0])
        for config in configurations(pipeline, facts, max_batch_size, max_queue_delay_us, instances, threads):
            write_config(folder / "repository" / config.name / "config.pbtxt", config)
        for name in ("golden.tar", "golden.safetensors"):
            copy(prepare / name, folder / "golden" / name)
        copy(reference, folder / REFERENCE)
        limits = (max_batch_size, max_queue_delay_us, instances, threads)
        container.write(folder / "container", pipeline, facts, engine, *limits)
        refuse_complaints(folder)
        content = {
            "pipeline": pipeline,
            "engine": selected["chosen"],
            "engine_folder": f"repository/{parts(pipeline)[1]}/{VERSION}",
            "engine_sha256": sha256(engine),
            "spec_sha256": sha256(spec),
            "sha256": digest(folder / "repository"),
        }
        atomic.write_json(folder / "package.json", content)
    print(f"{selected['chosen']} packaged as {content['sha256'][:12]}")


def refuse_complaints(folder: Path) -> None:
    """Raise `ValueError` where Triton would stumble over what was written."""
    for name in ("repository", "container"):
        complaints = lint(folder / name) if (folder / name).exists() else []
        if complaints:
            raise ValueError(f"package: {name}: {'; '.join(complaints)}")


def reasons(selected: dict[str, Any]) -> list[str]:
    """Say of each engine why it was not chosen."""
    return [f"{row['engine']}: {row['verdict']}" for row in selected["rows"]] or ["no engine was built"]


def engine_of(chosen: str, build: Path) -> Path:
    """Return the chosen engine's file; `ValueError` where its bytes are others than those built."""
    backend = chosen.split("-")[0]
    built = build / backend / "build.json"
    file = json.loads(built.read_text())["engines"].get(chosen) if built.exists() else None
    if file is None:
        raise ValueError(f"{build / backend / 'build.json'}: no engine '{chosen}'; run the build stage again")
    engine = build / backend / str(file)
    if sha256(engine) != passport.read(engine)["sha256"]:
        raise ValueError(f"{engine}: not the bytes that its passport names; run the build stage again")
    return engine


def write_models(repository: Path, pipeline: str, spec: Path, engine_file: Path, backend: str) -> None:
    """Copy the code, the facts and the engine that the server runs; each version folder is whole in itself."""
    preprocess, engine = (repository / name / VERSION for name in parts(pipeline))
    copy(spec, preprocess / "spec.json")
    kind = modality(json.loads(spec.read_text()))
    copy(CODE / "modalities" / kind / "preprocess.py", preprocess / "preprocess.py")
    has_check = (CODE / "modalities" / kind / "check.py").exists()
    for name in importlib.import_module(f"tasks.modalities.{kind}.check").FILES if has_check else ():
        copy(CODE / name, preprocess / "tasks" / name)
    copy(SERVER_CODE / "preprocess_model.py", preprocess / "model.py")
    copy(spec, engine / "spec.json")
    copy(CODE / "backends" / f"{backend}.py", engine / "backend.py")
    copy(SERVER_CODE / "engine_model.py", engine / "model.py")
    for name in ("observation.py", "observed.py"):
        copy(SERVER_CODE / name, engine / name)
    copy(engine_file, named := engine / f"engine{backends.backend(backend).SUFFIX}")
    copy(passport.beside(engine_file), passport.beside(named))
    for name in public(pipeline):
        copy(spec, repository / name / VERSION / "spec.json")  # Triton needs the folder, and DVC keeps no empty ones


def modality(spec: dict[str, Any]) -> str:
    """Return the kind of data, which is the name of the server's input, too: `image`."""
    return str(spec["workload"]).split("/")[0]


def parts(pipeline: str) -> tuple[str, str]:
    """Name the models that work: encoded sample to input, and input to scores; deploy adds a version."""
    return f"{pipeline}_preprocess", f"{pipeline}_engine"


def public(pipeline: str) -> tuple[str, str]:
    """Name the models that clients ask, chains of the parts: one takes encoded samples, the other prepared tensors."""
    return pipeline, f"{pipeline}_tensor"


def configurations(
    pipeline: str, spec: dict[str, Any], max_batch_size: int, max_queue_delay_us: int, instances: int, threads: int
) -> list[Any]:
    """Return the models' configurations as Triton's own messages, so that no field can be misspelt."""
    encoded = [(modality(spec), "TYPE_STRING", [1])]
    tensor = [("input", "TYPE_FP32", spec["shape"])]
    answer = [("label", "TYPE_STRING", [1]), ("scores", "TYPE_FP32", [len(spec["classes"])])]
    preprocess = configuration(parts(pipeline)[0], encoded, tensor, max_batch_size)
    engine = configuration(parts(pipeline)[1], tensor, answer, max_batch_size)
    for config in (preprocess, engine):
        run_in_python(config, max_queue_delay_us, instances, threads)
    of_samples = configuration(public(pipeline)[0], encoded, answer, max_batch_size)
    of_tensors = configuration(public(pipeline)[1], tensor, answer, max_batch_size)
    chain(of_samples, [preprocess, engine])
    chain(of_tensors, [engine])
    return [preprocess, engine, of_samples, of_tensors]


def configuration(name: str, inputs: list[Any], outputs: list[Any], max_batch_size: int) -> Any:
    """Return a model's name and its tensors: (name, type, dimensions without the batch)."""
    from tritonclient.grpc import model_config_pb2 as messages

    return messages.ModelConfig(
        name=name,
        max_batch_size=max_batch_size,
        input=[messages.ModelInput(name=n, data_type=t, dims=d) for n, t, d in inputs],
        output=[messages.ModelOutput(name=n, data_type=t, dims=d) for n, t, d in outputs],
    )


def run_in_python(config: Any, max_queue_delay_us: int, instances: int, threads: int) -> None:
    """Add what a model of the python backend needs; `threads` are those of one instance."""
    config.backend = "python"
    config.dynamic_batching.max_queue_delay_microseconds = max_queue_delay_us
    config.instance_group.add(count=instances, kind="KIND_CPU")
    config.parameters["threads"].string_value = str(threads)


def chain(ensemble: Any, steps: list[Any]) -> None:
    """Make a model the chain of others, tensors handed on by name; deploy adds the version to theirs."""
    ensemble.platform = "ensemble"
    for config in steps:
        step = ensemble.ensemble_scheduling.step.add(model_name=config.name, model_version=-1)
        step.input_map.update({tensor.name: tensor.name for tensor in config.input})
        step.output_map.update({tensor.name: tensor.name for tensor in config.output})


def write_config(path: Path, config: Any) -> None:
    """Write a configuration as text that Triton reads."""
    from google.protobuf import text_format

    path.write_text(text_format.MessageToString(config))


def copy(source: Path, target: Path) -> None:
    """Copy a file's content."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def digest(repository: Path) -> str:
    """Return one SHA-256 over the names and contents of all files below a folder, but of no passport.

    A passport tells when its engine was built: an engine built again, byte by byte the same, is the same package.
    """
    files = sorted(path for path in repository.rglob("*") if path.is_file() and passport.SUFFIX not in path.name)
    text = "".join(f"{sha256(path)}  {path.relative_to(repository).as_posix()}\n" for path in files)
    return hashlib.sha256(text.encode()).hexdigest()
