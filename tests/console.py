"""What an operator does in Prefect: start a deployment's run, watch it, look at what it left."""

import json
import time
import urllib.error
import urllib.request
from typing import Any

from tests.conftest import Miniature
from tests.test_run import ask

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def api(system: Miniature) -> str:
    """Return the address of the copy's Prefect API."""
    return f"{system.url('PREFECT')}/api"


def deployment(system: Miniature, name: str, timeout_s: float = 60) -> dict[str, Any]:
    """Return a deployment, once the worker has applied it."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return dict(ask(f"{api(system)}/deployments/name/{name}/{name}"))
        except urllib.error.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def start(system: Miniature, name: str, **parameters: Any) -> str:
    """Start a run of a deployment as the form of Prefect's page does; return its id."""
    address = f"{api(system)}/deployments/{deployment(system, name)['id']}/create_flow_run"
    return str(ask(address, {"parameters": parameters, "state": {"type": "SCHEDULED"}})["id"])


def ended(system: Miniature, run: str, timeout_s: float = 120) -> dict[str, Any]:
    """Wait for the end of a run; return its state."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        state: dict[str, Any] = ask(f"{api(system)}/flow_runs/{run}")["state"]
        if state["type"] in ENDED:
            return state
        time.sleep(0.5)
    raise AssertionError(f"the run is {state['name']} after {timeout_s:.0f} s: {state['message']}")


def runs(system: Miniature, flow: str) -> list[dict[str, Any]]:
    """Return the runs of a flow that have begun, the newest first."""
    states = {"type": {"not_any_": ["SCHEDULED"]}}
    wanted = {"flows": {"name": {"any_": [flow]}}, "flow_runs": {"state": states}, "sort": "EXPECTED_START_TIME_DESC"}
    return list(ask(f"{api(system)}/flow_runs/filter", wanted))


def table(system: Miniature, key: str) -> dict[str, dict[str, Any]]:
    """Return the newest table that runs left under a key, by its first column."""
    left = ask(f"{api(system)}/artifacts/latest/filter", {"artifacts": {"key": {"any_": [key]}}})
    return {row["check"]: row for row in json.loads(left[0]["data"])}
