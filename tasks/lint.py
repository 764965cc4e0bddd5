"""Lint a Triton model repository offline: what its configurations say against what its files are."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks import passport

FILES = {"python": "model.py", "onnxruntime": "model.onnx", "tensorrt": "model.plan", "dali": "model.dali"}
PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt", "ensemble": "ensemble"}
TYPES = {"float": "TYPE_FP32", "float16": "TYPE_FP16", "int64": "TYPE_INT64", "int32": "TYPE_INT32"}
Configs = dict[str, Any]


def lint(repository: Path) -> list[str]:
    """Return what is wrong with a model repository, a sentence each: model, field, value, remedy."""
    if not repository.is_dir():
        raise ValueError(f"{repository}: no such folder; give a Triton model repository")
    configs: Configs = {}
    found = []
    for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
        try:
            configs[folder.name] = parse(folder / "config.pbtxt")
        except ValueError as error:
            found.append(str(error))
    if not configs and not found:
        found.append(f"{repository}: no model in it; a model is a folder with a config.pbtxt")
    for name, config in configs.items():
        found += [f"{name}: {complaint}" for complaint in complaints(repository / name, config, configs)]
    return found


def parse(path: Path) -> Any:
    """Read a model's configuration; `ValueError` names the line that Triton would stumble over."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.parent.name}: config.pbtxt: {error}") from None
    except OSError as error:
        raise ValueError(f"{path.parent.name}: config.pbtxt: {error.strerror}; every model has one") from None


def complaints(folder: Path, config: Any, configs: Configs) -> Iterator[str]:
    """Yield what is wrong with one model."""
    if config.name and config.name != folder.name:
        yield f"config.pbtxt names it '{config.name}'; the folder's name and this must be the same"
    backend = config.backend or PLATFORMS.get(config.platform, "")
    if not backend:
        yield f"platform '{config.platform}' is none of {', '.join(PLATFORMS)}, and there is no backend"
        return
    versions = sorted(
        (path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()), key=lambda p: p.name
    )
    if not versions:
        yield "no version folder (1, 2, ...): loading it would hang the server"
        return
    yield from of_sizes(config)
    yield from of_queue(config)
    if backend == "ensemble":
        yield from of_wiring(config, configs)
        return
    for version in versions:
        file = version / (config.default_model_filename or FILES.get(backend, ""))
        if not file.is_file():
            yield f"{version.name}/{file.name} is not there: loading it would hang the server"
        yield from of_engine(version, config)


def of_sizes(config: Any) -> Iterator[str]:
    """Yield what is wrong with names, dimensions and instances by themselves."""
    for side, tensors in (("input", config.input), ("output", config.output)):
        if not tensors:
            yield f"no {side}; write its name, data_type and dims"
        names = [tensor.name for tensor in tensors]
        for name in {name for name in names if names.count(name) > 1}:
            yield f"{side} '{name}' is there twice"
        for tensor in tensors:
            if not tensor.data_type:
                yield f"{side} '{tensor.name}' has no data_type"
            if not tensor.dims or any(size == 0 or size < -1 for size in tensor.dims):
                yield f"{side} '{tensor.name}' has dims {list(tensor.dims)}; each is a size, or -1 for any"
    if config.max_batch_size < 0:
        yield f"max_batch_size is {config.max_batch_size}; 0 is without batching"
    if config.max_batch_size == 0 and config.HasField("dynamic_batching"):
        yield "dynamic_batching without a max_batch_size has nothing to batch"


def of_queue(config: Any) -> Iterator[str]:
    """Yield what is wrong with the classes of requests: levels that are not there, queues that refuse or never do."""
    batching = config.dynamic_batching
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        yield f"default_priority_level is {default}, but there are priority_levels 1 to {levels}; name one of them"
    if not levels and default:
        yield f"default_priority_level is {default}, but there are no priority_levels; write how many"
    for level, policy in sorted(batching.priority_queue_policy.items()):
        if not 1 <= level <= levels:
            known = f"priority_levels are 1 to {levels}" if levels else "there are no priority_levels"
            yield f"priority_queue_policy is for level {level}, but {known}; it would never count"
        yield from of_policy(policy, f"priority_queue_policy {level}")
    if batching.HasField("default_queue_policy"):
        yield from of_policy(batching.default_queue_policy, "default_queue_policy")


def of_policy(policy: Any, name: str) -> Iterator[str]:
    """Yield where a queue's bounds contradict each other."""
    if policy.timeout_action == policy.DELAY and not (
        policy.default_timeout_microseconds or policy.allow_timeout_override
    ):
        yield f"{name} has a timeout_action for a timeout that nobody sets; write default_timeout_microseconds"


def of_engine(version: Path, config: Any) -> Iterator[str]:
    """Yield where a configuration is at odds with the engine's passport and the classes beside it."""
    spec = version / "spec.json"
    classes = json.loads(spec.read_text())["classes"] if spec.exists() else None
    for engine in sorted(path for path in version.iterdir() if passport.beside(path).exists()):
        facts = passport.read(engine)
        most = facts["batch"][2]
        if most is not None and config.max_batch_size > most:
            yield f"max_batch_size {config.max_batch_size} is above {most}, the most that {engine.name} was built for"
        for side, tensors in (("inputs", config.input), ("outputs", config.output)):
            known = {tensor["name"]: tensor for tensor in facts["tensors"][side]}
            for tensor in tensors:
                if tensor.name in known:
                    yield from of_tensor(tensor, known[tensor.name], engine.name)
                elif config.backend != "python":
                    yield f"'{tensor.name}' is no {side[:-1]} of {engine.name}; it has {', '.join(known)}"
        yield from of_instances(config, facts, engine.name)
        for tensor in config.output:
            if classes and tensor.name in ("scores", "logits") and list(tensor.dims) != [len(classes)]:
                yield f"output '{tensor.name}' has dims {list(tensor.dims)}, but there are {len(classes)} classes"


def of_tensor(tensor: Any, known: dict[str, Any], engine: str) -> Iterator[str]:
    """Yield where a tensor's type or dims are other than the engine's."""
    from tritonclient.grpc import model_config_pb2

    written, wanted = model_config_pb2.DataType.Name(tensor.data_type), TYPES.get(known["type"], known["type"])
    if written != wanted:
        yield f"'{tensor.name}' is {written}, but {engine} has {wanted}"
    shape = [size if isinstance(size, int) else -1 for size in known["shape"]]
    dims = list(tensor.dims)
    if dims == shape or (len(dims) == len(shape) and dims[1:] == shape[1:]):
        yield f"'{tensor.name}' repeats the batch in dims {dims}; with max_batch_size write {shape[1:]}"
    elif dims != shape[1:]:
        yield f"'{tensor.name}' has dims {dims}, but {engine} has {shape[1:]}"


def of_instances(config: Any, facts: dict[str, Any], engine: str) -> Iterator[str]:
    """Yield where instances stand on other hardware than the engine is for."""
    from tritonclient.grpc import model_config_pb2

    wanted = {"cpu": "KIND_CPU", "gpu": "KIND_GPU"}[facts["device"]]
    for group in config.instance_group:
        kind = model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind)
        if kind not in (wanted, "KIND_AUTO", "KIND_MODEL"):
            yield f"instance_group is {kind}, but {engine} runs on the {facts['device'].upper()}: write {wanted}"


def of_wiring(config: Any, configs: Configs) -> Iterator[str]:
    """Yield broken wires of an ensemble: unknown models and tensors, values nobody makes, other types and sizes."""
    made = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in config.input}
    for step in config.ensemble_scheduling.step:
        model = configs.get(step.model_name)
        if model is None:
            yield f"step '{step.model_name}' is no model here; there are: {', '.join(sorted(configs))}"
            continue
        if config.max_batch_size > model.max_batch_size:
            yield f"max_batch_size {config.max_batch_size} is above {model.max_batch_size}, that of '{step.model_name}'"
        inputs, outputs = ({each.name: each for each in side} for side in (model.input, model.output))
        for name in inputs.keys() - step.input_map.keys():
            yield f"step '{step.model_name}' leaves its input '{name}' open; map it"
        for name, value in step.input_map.items():
            if name not in inputs:
                yield f"'{name}' is no input of '{step.model_name}'; it has {', '.join(inputs)}"
            elif value not in made:
                yield f"'{value}', for '{name}' of '{step.model_name}', is made by no step before"
            elif made[value] != (inputs[name].data_type, list(inputs[name].dims)):
                yield f"'{value}' differs in type or dims from '{name}' of '{step.model_name}'"
        for name, value in step.output_map.items():
            if name not in outputs:
                yield f"'{name}' is no output of '{step.model_name}'; it has {', '.join(outputs)}"
            else:
                made[value] = (outputs[name].data_type, list(outputs[name].dims))
    for tensor in config.output:
        if made.get(tensor.name) != (tensor.data_type, list(tensor.dims)):
            yield f"output '{tensor.name}' is made by no step, or with another type or dims"
