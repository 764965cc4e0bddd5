"""What TensorRT and TensorRT for RTX have in common: one API, so the library at hand is passed in as `trt`."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INPUT, OUTPUT = "input", "logits"
MOVES = {"CONSTANT", "SHUFFLE", "CAST", "IDENTITY", "QUANTIZE", "DEQUANTIZE"}  # layers that compute nothing
INDICES = {"INT32", "INT64", "BOOL"}  # types of shapes and masks


@dataclass(frozen=True)
class Built:
    """A serialised engine and what is known of it before it runs."""

    plan: bytes
    batch: list[int]
    layers: dict[str, int]
    config: Any


def listener(trt: Any) -> tuple[Any, list[str]]:
    """Return a logger that keeps errors, and the list it keeps them in: the builder reports by it alone."""
    words: list[str] = []

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                words.append(message.strip())

    return Logger(), words


def build(trt: Any, title: str, source: Path, max_batch: int, configure: Callable[[Any], None]) -> Built:
    """Build the engine of an ONNX file for batches of 1 to `max_batch`; `configure` sets what a library has alone.

    Precision is the ONNX file's. `ValueError` carries the parser's or builder's own words.
    """
    logger, words = listener(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)  # holds the weights until the build is done
    if not parser.parse_from_file(str(source)):
        raise ValueError(f"{title} can't read {source.name}: {complaints(parser)}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    batch = [1, max(1, max_batch // 4), max_batch]
    config.add_optimization_profile(profile(builder, network, source, batch))
    configure(config)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ValueError(f"{title} can't build {source.name}: {'; '.join(words) or 'it gave no reason'}")
    return Built(bytes(plan), batch, counts(layers(network)), config)


def strongly_typed(trt: Any) -> int:
    """Return the network flags: types are the ONNX file's; where TensorRT is always so, it ignores the flag."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def complaints(parser: Any) -> str:
    """Return what the parser says, each with the node and operator it stopped at."""
    said = []
    for error in (parser.get_error(i) for i in range(parser.num_errors)):
        operator = error.node_operator()
        where = f" (operator {operator}, node {error.node_name() or 'without a name'})" if operator else ""
        said.append(f"{error.desc()}{where}")
    return "; ".join(said) or "it gave no reason"


def profile(builder: Any, network: Any, source: Path, batch: list[int]) -> Any:
    """Return the optimisation profile; `ValueError` unless there is one input, its batch dynamic and all else fixed."""
    names = [network.get_input(i).name for i in range(network.num_inputs)]
    if names != [INPUT]:
        raise ValueError(f"{source.name}: its inputs are {', '.join(names) or 'none'}; export it with one, '{INPUT}'")
    first, *rest = network.get_input(0).shape
    if first != -1:
        raise ValueError(f"{source.name}: its batch is fixed at {first}; export it with a dynamic batch")
    if -1 in rest:
        shape = ", ".join("?" if size == -1 else str(size) for size in (first, *rest))
        raise ValueError(f"{source.name}: its input is [{shape}]; export it with a dynamic batch and all else fixed")
    found = builder.create_optimization_profile()
    found.set_shape(INPUT, *[(size, *rest) for size in batch])
    return found


def layers(network: Any) -> list[dict[str, str]]:
    """Return name, type, output type and the type it computes in of each layer, as written, before any is fused.

    A layer between Q/DQ pairs reads and writes floats, but is fused into INT8: it counts as INT8 where each of its
    inputs, weights too, comes from a DequantizeLinear.
    """
    found = [network.get_layer(i) for i in range(network.num_layers)]
    integers = {
        layer.get_output(0).name: layer.get_input(0).dtype.name for layer in found if layer.type.name == "DEQUANTIZE"
    }
    return [
        {
            "name": layer.name,
            "type": layer.type.name,
            "output": layer.get_output(0).dtype.name,
            "computes": computes(layer, integers),
        }
        for layer in found
    ]


def counts(found: list[dict[str, str]]) -> dict[str, int]:
    """Count the layers that compute by the type they do it in; those that move data or work out shapes are none."""
    kinds = Counter(layer["computes"] for layer in found if layer["type"] not in MOVES)
    return {kind: kinds[kind] for kind in sorted(kinds) if kind not in INDICES}


def computes(layer: Any, integers: dict[str, str]) -> str:
    """Return the type a layer computes in, by where its inputs come from."""
    inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
    sources = {integers.get(tensor.name, "") for tensor in inputs if tensor is not None}
    floats = layer.type.name in ("CONVOLUTION", "DECONVOLUTION") and len(inputs) == 1  # its weights are not quantised
    if len(sources) == 1 and sources != {""} and not floats:
        return str(sources.pop())
    return str(layer.get_output(0).dtype.name)


def inspect(trt: Any, plan: bytes) -> dict[str, Any] | None:
    """Return the inspector's account of an engine, layers as fused; None where it can't be loaded, as without a GPU."""
    logger, _ = listener(trt)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        return None
    told = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return dict(json.loads(told))


def load(trt: Any, title: str, engine: Path, host_code: bool = False) -> Callable[[Any], Any]:
    """Return inference on the first GPU, in parts of the engine's largest batch; `ValueError` where it can't be loaded.

    `host_code` lets an engine bring code of its own, as a version-compatible one does: for engines of our own only.
    """
    logger, words = listener(trt)
    runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = host_code
    loaded = runtime.deserialize_cuda_engine(engine.read_bytes())
    if loaded is None:
        raise ValueError(f"{title} can't load {engine.name} here: {'; '.join(words) or 'it gave no reason'}")
    if loaded.get_tensor_dtype(OUTPUT) != trt.DataType.FLOAT:
        kind = loaded.get_tensor_dtype(OUTPUT).name
        raise ValueError(f"{engine.name}: its {OUTPUT} are {kind}; convert the ONNX file with float inputs and outputs")
    return predictor(loaded)


def predictor(loaded: Any) -> Callable[[Any], Any]:
    """Return inference by a loaded engine: numpy -> numpy."""
    import numpy as np
    import torch

    largest = loaded.get_tensor_profile_shape(INPUT, 0)[2][0]
    context, stream = loaded.create_execution_context(), torch.cuda.Stream()

    def predict(x: Any) -> Any:
        parts = [np.ascontiguousarray(x[i : i + largest]) for i in range(0, len(x), largest)]
        return np.concatenate([infer(context, stream, part) for part in parts])

    return predict


def infer(context: Any, stream: Any, x: Any) -> Any:
    """Run one batch on a stream: numpy -> numpy."""
    import torch

    with torch.cuda.stream(stream):
        source = torch.from_numpy(x).cuda()
        if not context.set_input_shape(INPUT, tuple(source.shape)):
            raise ValueError(f"the engine takes no {list(source.shape)}; see the batch in its passport")
        logits = torch.empty(tuple(context.get_tensor_shape(OUTPUT)), device="cuda", dtype=torch.float32)
        context.set_tensor_address(INPUT, source.data_ptr())
        context.set_tensor_address(OUTPUT, logits.data_ptr())
        if not context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("the engine refused to run; TensorRT's words are above")
        return logits.cpu().numpy()
