"""The inference server: set up below .state/serving, and the command line that starts it."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from flows import addresses, remains, tokens
from flows.replicas import HEADER, Replica, knobs
from tasks import backends
from tasks.settings import STATE

SERVER = "nvidia-pytriton==0.7.0"  # Triton 2.51 as a wheel; it wants numpy<2, so it never enters our own environment
LOCK = Path("infra/serving/requirements.lock")
SERVING = STATE / "serving"
ENVIRONMENT = SERVING / "env"
STAMP = SERVING / "installed"
MODELS = STATE / "triton" / "models"
OBSERVED = STATE / "triton" / "observed"  # what models note of their inputs and outputs
RESTRICTED = "model-repository,model-config,shared-memory,statistics,trace,logging"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBPYTHON = f"libpython{PYTHON}.so.1.0"


def versions() -> dict[str, str]:
    """Return the version of each backend's library in the server's environment, where it has one."""
    pinned = dict(line.split("==") for line in LOCK.read_text().splitlines() if "==" in line)
    distributions = {name: backends.backend(name).DISTRIBUTION for name in backends.names()}
    return {name: pinned[found] for name, found in distributions.items() if found in pinned}


def install() -> None:
    """Leave the server and the environment of its models in .state/serving; where that is done, do nothing."""
    wanted = hashlib.sha256(f"{SERVER} {sys.version} {sys.base_prefix}\n{LOCK.read_text()}".encode()).hexdigest()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    SERVING.mkdir(parents=True, exist_ok=True)
    STAMP.unlink(missing_ok=True)
    install_environment()
    install_server()
    install_libpython()
    STAMP.write_text(wanted)


def install_environment() -> None:
    """Make the models' own environment: this server silently hands them wrong inputs under numpy 2."""
    uv("venv", "--clear", "--relocatable", "--python", sys.executable, str(ENVIRONMENT))
    uv("pip", "install", "--python", str(ENVIRONMENT), "-r", str(LOCK))


def install_server() -> None:
    """Unpack the server's wheel aside, and gather the backend that runs our models out of links into it."""
    shutil.rmtree(SERVING / "triton", ignore_errors=True)
    shutil.rmtree(SERVING / "backends", ignore_errors=True)
    target = str(SERVING / "triton")
    uv("pip", "install", "--python", str(ENVIRONMENT), "--no-deps", "--target", target, SERVER)
    server = Path("triton", "pytriton", "tritonserver")
    stub = server / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
    library, utilities = (
        server / "backends" / "python" / n for n in ("libtriton_python.so", "triton_python_backend_utils.py")
    )
    backend = SERVING / "backends" / "python"
    backend.mkdir(parents=True)
    for part in (stub, library, utilities):
        (backend / part.name).symlink_to(Path("..", "..", part))
    for program in (stub, server / "bin" / "tritonserver"):
        (SERVING / program).chmod(0o755)


def uv(*arguments: str) -> None:
    """Run uv quietly, with pip's extra places to look for wheels; an error says what it said."""
    program = Path(sys.executable).with_name("uv")
    if not program.exists():
        raise ValueError(f"{program}: not there; install it with: {sys.executable} -m pip install uv")
    places = ",".join(os.environ.get("PIP_FIND_LINKS", "").split())
    found = {"UV_FIND_LINKS": places} if places else {}
    done = subprocess.run([program, "--quiet", *arguments], env=found | os.environ, text=True, capture_output=True)
    if done.returncode:
        raise ValueError(f"uv {' '.join(arguments)}: {done.stderr.strip()}")


def install_libpython() -> None:
    """Unpack Debian's Python library where neither this Python nor the system has one; nothing is installed."""
    if libpython_folder() is not None or system_has_libpython():
        return
    folder, package = SERVING / "libpython", f"libpython{PYTHON}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True, text=True, capture_output=True)
        for archive in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", archive, folder], check=True, text=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = str(getattr(error, "stderr", "") or error).strip()
        raise ValueError(
            f"{LIBPYTHON} is missing, and {package} can't be fetched ({reason}); install {package}"
        ) from error
    if libpython_folder() is None:
        raise ValueError(f"{package}: the package holds no {LIBPYTHON}; install a shared Python {PYTHON}")


def libpython_folder() -> Path | None:
    """Return where the Python library lies, if it needs naming: this Python's own before an unpacked one."""
    own = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    unpacked = sorted((SERVING / "libpython").glob(f"usr/lib/*/{LIBPYTHON}"))
    return next((path.parent.resolve() for path in (own / LIBPYTHON, *unpacked) if path.exists()), None)


def system_has_libpython() -> bool:
    """Tell whether the dynamic loader finds the Python library by itself."""
    program = shutil.which("ldconfig", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        return False
    known = subprocess.run([program, "-p"], text=True, capture_output=True).stdout
    return re.search(rf"^\s*{re.escape(LIBPYTHON)} ", known, re.MULTILINE) is not None


def command(replica: Replica) -> list[str]:
    """Return what starts a server with every deployed model, to be run in the checkout's root.

    Its paths are relative: the server hands them to a shell unquoted, and the checkout's own may hold a space.
    """
    for folder in (MODELS, OBSERVED):
        folder.mkdir(parents=True, exist_ok=True)
    listen = []
    for service, address in (("http", replica.http), ("grpc", replica.grpc), ("metrics", replica.metrics)):
        host, _, port = address.rpartition(":")
        listen += [f"--{service}-address={host}", f"--{service}-port={port}"]
    return [
        str((SERVING / "triton" / "pytriton" / "tritonserver" / "bin" / "tritonserver").resolve()),
        f"--model-repository={MODELS}",
        f"--backend-directory={SERVING / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={remains.shared(replica.name)}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in deployed()),
        "--exit-on-error=false",  # a model that no longer loads must not take the others down
        "--exit-timeout-secs=10",
        "--allow-gpu-metrics=false",
        *listen,
    ]


def restrictions() -> list[str]:
    """Return the arguments that keep all but inference, metadata and health from whoever has not the token.

    They name the token: they belong on no command line.
    """
    rule = f"{RESTRICTED}:{HEADER}={tokens.control()}"
    return [f"--http-restricted-api={rule}", f"--grpc-restricted-protocol={rule}"]


def alone(repository: Path, port: int, name: str) -> list[str]:
    """Return what starts a server of one repository, all of its models loaded, that answers gRPC on one port alone.

    It ends by itself where a model does not load.
    """
    return [
        str((SERVING / "triton" / "pytriton" / "tritonserver" / "bin" / "tritonserver").resolve()),
        f"--model-repository={repository}",
        f"--backend-directory={SERVING / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={remains.shared(name)}",
        "--allow-http=false",
        "--allow-metrics=false",
        f"--grpc-address={addresses.HOST}",
        f"--grpc-port={port}",
        "--exit-timeout-secs=10",
        "--allow-gpu-metrics=false",
    ]


def deployed() -> list[str]:
    """Name the models that clients ask; the server loads with them the parts they point at, and no older ones."""
    return sorted(path.parent.name for path in MODELS.glob("*/config.pbtxt") if "." not in path.parent.name)


def environment() -> dict[str, str]:
    """Return a server's environment: ours, where its libraries lie, and first on PATH the Python of its models."""
    folders = [(SERVING / "triton" / "nvidia_pytriton.libs").resolve(), libpython_folder()]
    libraries = [str(folder) for folder in folders if folder] + os.environ.get("LD_LIBRARY_PATH", "").split(":")
    return os.environ | {
        "PATH": f"{(ENVIRONMENT / 'bin').absolute()}:{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
    }


def observing() -> dict[str, str]:
    """Return the environment of a server that clients ask: its models note, as far as the knobs let them.

    The folder is relative: the server's Python knows ASCII paths only.
    """
    return environment() | {
        "ENGINEWORKS_OBSERVED": str(OBSERVED),
        "ENGINEWORKS_OBSERVE": knobs().observe.model_dump_json(),
    }
