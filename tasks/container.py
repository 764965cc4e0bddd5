"""The same package for NVIDIA's official Triton container: its own backends in the place of Python models.

Written, parsed and linted here, and run nowhere yet: the server of this project has the Python backend alone.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from tasks import passport
from tasks.workload import part

PLATFORMS = {".onnx": ("onnxruntime_onnx", "model.onnx"), ".plan": ("tensorrt_plan", "model.plan")}
VERSION, LABELS = "1", "labels.txt"


def write(
    folder: Path,
    pipeline: str,
    spec: dict[str, Any],
    engine: Path,
    max_batch_size: int,
    delay_us: int,
    instances: int,
    threads: int,
) -> None:
    """Leave three models in `folder`: DALI's preprocessing, the engine, and the chain; nothing where none takes it.

    Clients send encoded samples as UINT8 and get `logits`; the names of the classes come with Triton's classification
    extension. GPU engines get GPU instances and decode on the GPU.
    """
    from google.protobuf import text_format

    if engine.suffix not in PLATFORMS:
        return
    platform, file = PLATFORMS[engine.suffix]
    device = passport.read(engine)["device"]
    names = [f"{pipeline}_preprocess", f"{pipeline}_engine", pipeline]
    for name in names:
        (folder / name / VERSION).mkdir(parents=True)
    (folder / names[0] / VERSION / "model.dali").write_bytes(serialised(spec, max_batch_size, threads, device))
    shutil.copyfile(engine, folder / names[1] / VERSION / file)
    shutil.copyfile(passport.beside(engine), passport.beside(folder / names[1] / VERSION / file))
    (folder / names[1] / LABELS).write_text("".join(f"{name}\n" for name in spec["classes"]))
    (folder / names[2] / VERSION / "spec.json").write_text(json.dumps(spec))  # Triton needs the folder, DVC a file
    for config in configurations(names, spec, platform, device, max_batch_size, delay_us, instances, threads):
        (folder / config.name / "config.pbtxt").write_text(text_format.MessageToString(config))


def serialised(spec: dict[str, Any], max_batch_size: int, threads: int, device: str) -> bytes:
    """Return DALI's graph for its Triton backend, without the lines of code that made it, which name paths."""
    from nvidia.dali._utils import dali_trace

    traced = dali_trace.is_tracing_enabled()
    dali_trace.set_tracing(enabled=False)
    try:
        graph = part(spec["workload"], "preprocess").serving_pipeline(spec, max_batch_size, threads, device)
        return bytes(graph.serialize())
    finally:
        dali_trace.set_tracing(enabled=traced)


def configurations(
    names: list[str],
    spec: dict[str, Any],
    platform: str,
    device: str,
    size: int,
    delay_us: int,
    instances: int,
    threads: int,
) -> list[Any]:
    """Return the three models' configurations as Triton's own messages."""
    from tritonclient.grpc import model_config_pb2 as messages

    modality, kind = spec["workload"].split("/")[0], {"cpu": "KIND_CPU", "gpu": "KIND_GPU"}[device]
    encoded = {"name": modality, "data_type": "TYPE_UINT8", "dims": [-1], "allow_ragged_batch": True}
    tensor = {"name": "input", "data_type": "TYPE_FP32", "dims": spec["shape"]}
    answer = {"name": "logits", "data_type": "TYPE_FP32", "dims": [len(spec["classes"])], "label_filename": LABELS}
    preprocess = messages.ModelConfig(name=names[0], backend="dali", max_batch_size=size)
    preprocess.input.add(**encoded)
    preprocess.output.add(**tensor)
    engine = messages.ModelConfig(name=names[1], platform=platform, max_batch_size=size)
    engine.input.add(**tensor)
    engine.output.add(**answer)
    if platform == "onnxruntime_onnx":
        engine.parameters["intra_op_thread_count"].string_value = str(threads)
    for config in (preprocess, engine):
        config.dynamic_batching.max_queue_delay_microseconds = delay_us
        config.instance_group.add(count=instances, kind=kind)
    chain = messages.ModelConfig(name=names[2], platform="ensemble", max_batch_size=size)
    chain.input.add(**encoded)
    chain.output.add(**{name: value for name, value in answer.items() if name != "label_filename"})
    for config in (preprocess, engine):
        step = chain.ensemble_scheduling.step.add(model_name=config.name, model_version=-1)
        step.input_map.update({each.name: each.name for each in config.input})
        step.output_map.update({each.name: each.name for each in config.output})
    return [preprocess, engine, chain]
