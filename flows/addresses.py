"""Where our servers listen, and the environment in which our processes find them."""

import ipaddress
import os
import sys
from pathlib import Path

from tasks import settings

HOST = "127.0.0.1"
# HTTP and GRPC are the door's, which clients reach; TRITON is the first of the ports of the servers behind it.
PORTS = {"PREFECT": 4200, "MLFLOW": 5000, "HTTP": 8000, "GRPC": 8001, "METRICS": 8002, "TRITON": 8010}


def variable(name: str) -> str:
    """Return the environment variable that moves a port."""
    return f"ENGINEWORKS_{name}_PORT"


def port(name: str) -> int:
    """Return a port; `ValueError` names the variable where it is no port."""
    value = os.environ.get(variable(name), str(PORTS[name]))
    if not value.isdigit() or not 0 < int(value) < 65536:
        raise ValueError(f"{variable(name)} is '{value}': it must be a port, 1 to 65535")
    return int(value)


def address(name: str) -> str:
    """Return `127.0.0.1:<port>`."""
    return f"{HOST}:{port(name)}"


def listen() -> str:
    """Return where the door listens: on loopback, unless told otherwise."""
    value = os.environ.get("ENGINEWORKS_LISTEN", HOST)
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(f"ENGINEWORKS_LISTEN is '{value}': it must be an IP address, as in 0.0.0.0") from None


def inherited() -> dict[str, str]:
    """Return the addresses of servers that the caller already has: those are used, ours not started."""
    given = {name: os.environ.get(name, "") for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")}
    return {name: value for name, value in given.items() if value and value != prefect_api()}


def prefect_api() -> str:
    """Return the API of our own Prefect server."""
    return f"http://{address('PREFECT')}/api"


def adopt() -> None:
    """Set this process's environment, and so its children's: quiet, offline, our state, our servers."""
    settings.quiet()
    settings.STATE.mkdir(exist_ok=True)
    settings.STATE.chmod(0o700)  # it holds databases, logs and what servers run
    state = settings.STATE.absolute()
    defaults = {
        "PREFECT_API_URL": prefect_api(),
        "PREFECT_HOME": str(state / "prefect"),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # runs' logs are in the Prefect UI and .state/logs
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",  # else its background threads write to the terminal
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_CLIENT_MAX_RETRIES": "8",  # each after twice the wait of the one before: 8 minutes without a server
        # Leases in memory, its default, go with a killed server; what they held was then taken for ever.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "DVC_SITE_CACHE_DIR": str(state / "dvc"),
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    python = Path(sys.executable).parent
    os.environ["PATH"] = f"{python}{os.pathsep}{os.environ.get('PATH', os.defpath)}"  # `python` in dvc.yaml is ours
