"""What the doctor sees of the machine: CPU, GPU, and which backends build and run on them."""

import ast
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import psutil

import tasks.backends
from flows.finding import Finding
from tasks import gpu as nvidia
from tasks import params, target

GB = 1e9
WORTH = {  # instruction set: what it brings, what its absence means, what to do then
    "avx2": (
        "vector kernels of PyTorch, DALI and ONNX Runtime",
        "every kernel runs on shorter vectors, slowly",
        "train and serve on a newer CPU",
    ),
    "avx512_vnni": (
        "INT8 at full speed",
        "INT8 is slower and may score otherwise",
        "measure where you serve: an accuracy verdict counts for the instruction set it was measured on",
    ),
    "avx512_bf16": (
        "16-mixed trains as bf16-mixed, in hardware",
        "16-mixed runs as bf16-mixed, without hardware support",
        "compare with precision: 32-true in params.yaml, which may train faster here",
    ),
    "amx_int8": (
        "INT8 in matrix tiles",
        "INT8 runs without matrix tiles",
        "nothing to do: it is in Intel's server CPUs from 2023 on",
    ),
}


def cpu() -> list[Finding]:
    """Return the CPU, and each instruction set that matters with what it is worth."""
    facts = target.cpu()
    memory = psutil.virtual_memory().total / GB
    found = [
        Finding("cpu", "model", "ok", facts["cpu"] or "unknown"),
        Finding("cpu", "size", "ok", f"{facts['cores']} cores, {memory:.1f} GB of memory"),
    ]
    for name, (worth, loss, remedy) in WORTH.items():
        if name in facts["instruction_sets"]:
            found.append(Finding("cpu", name, "ok", worth))
        else:
            found.append(Finding("cpu", name, "note", f"absent: {loss}", remedy))
    return found


def gpu() -> list[Finding]:
    """Return NVIDIA's driver and the GPUs it shows, asked without torch."""
    driver = nvidia.driver()
    if driver is None:
        value, remedy = "none: training and serving on the CPU", "nothing to do, unless it has an NVIDIA GPU"
        return [Finding("gpu", "driver", "note", value, remedy)]
    if driver.error:
        value = f"{nvidia.DRIVER} is there, but no GPU answers: {driver.error}"
        return [Finding("gpu", "driver", "problem", value, "see what nvidia-smi says, and CUDA_VISIBLE_DEVICES")]
    found = [Finding("gpu", "driver", "ok", f"for CUDA {driver.cuda}")]
    for index, each in enumerate(driver.gpus):
        value = f"{each['name']}, capability {each['compute_capability']}, {each['memory_bytes'] / GB:.1f} GB"
        found.append(Finding("gpu", f"gpu {index}", "ok", value))
    torch = [each.version for each in importlib.metadata.distributions(name="torch")][:1]
    if torch and torch[0].endswith("+cpu"):
        remedy = "take torch's CUDA build: unset PIP_FIND_LINKS; rm -r .venv; make setup"
        found.append(Finding("gpu", "torch", "note", f"{torch[0]}: training does not use the GPU", remedy))
    return found


def backends() -> list[Finding]:
    """Return each backend there is or that params.yaml names: chosen or not, builds here, runs here."""
    chosen = params.checked(list[str], params.read().get("backends"), f"{params.PARAMS}: backends")
    files = {name: Path(tasks.backends.__file__).with_name(f"{name}.py") for name in tasks.backends.names()}
    found = [backend(name, path, name in chosen) for name, path in files.items()]
    for name in (name for name in chosen if name not in files):
        remedy = f"take it out of backends; there are: {', '.join(files)}"
        found.append(Finding("backends", name, "problem", "in params.yaml, but no file in tasks/backends", remedy))
    return found


def backend(name: str, path: Path, chosen: bool) -> Finding:
    """Return what a backend can do here."""
    absent = [library for library in libraries(path) if importlib.util.find_spec(library) is None]
    if absent:
        remedy = "rm -f .venv/ready; make setup" if chosen else f"install {' and '.join(absent)} to use it"
        value = f"can't build here: no {', '.join(absent)}"
        return Finding("backends", name, "problem" if chosen else "note", value, remedy)
    reason = tasks.backends.backend(name).missing()
    unused = "" if chosen else "; not among the backends of params.yaml"
    if reason is None:
        return Finding("backends", name, "ok", f"builds and runs here{unused}")
    remedy = "nothing to do: its engines are kept, but can't be chosen here"
    return Finding("backends", name, "note", f"builds here, does not run here: {reason}{unused}", remedy)


def libraries(path: Path) -> list[str]:
    """Name the packages that a backend's file imports, other than Python's own and ours."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module for node in nodes if isinstance(node, ast.ImportFrom) if node.module and not node.level]
    ours = sys.stdlib_module_names | {"tasks"}
    return sorted({name.partition(".")[0] for name in named} - ours)
