"""What this project can't test without an NVIDIA GPU: runs `pytest -m gpu` and records each test's outcome.

    python benchmarks/gpu_check.py     (make gpu-check)

Writes benchmarks/results/gpu-check.json: hardware, versions, and per test its outcome, seconds and what it recorded.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tasks import gpu, measure  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "gpu-check.json"
PACKAGES = ("torch", "pytorch-lightning", "nvidia-dali-cuda120", "onnxruntime", "tensorrt-rtx-cu13-libs", "tensorrt")


def main() -> int:
    """Run the tests and write the results; return pytest's exit code, or 1 where there is no GPU."""
    reason = gpu.missing()
    if reason:
        print(f"gpu-check needs an NVIDIA GPU: {reason}; run it on a machine that has one.")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        tests = sorted(str(path) for path in (ROOT / "tests").glob("test_gpu*.py"))
        options = ["-m", "gpu", f"--junitxml={report}", "-o", "junit_family=xunit1"]
        command = [sys.executable, "-m", "pytest", *tests, *options]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        code = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, check=False).returncode
        found = outcomes(report)
    RESULTS.write_text(json.dumps(results(found), indent=2, ensure_ascii=False) + "\n")
    print(f"{RESULTS.relative_to(ROOT)}: {json.dumps(results(found)['summary'])}")
    return code


def outcomes(report: Path) -> dict[str, dict[str, Any]]:
    """Return per test of a JUnit file its outcome, the reason, its seconds and what it recorded."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        ended = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        found[f"{case.get('classname', '')}::{case.get('name', '')}"] = {
            "outcome": "passed" if ended is None else ended.tag,
            "reason": "" if ended is None else ended.get("message", ""),
            "seconds": float(case.get("time", 0)),
            "recorded": {each.get("name", ""): each.get("value") for each in case.iter("property")},
        }
    return found


def results(tests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what the file holds."""
    installed = {name: [each.version for each in importlib.metadata.distributions(name=name)] for name in PACKAGES}
    ended = [facts["outcome"] for facts in tests.values()]
    return {
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": {"gpu": gpu.first(), **measure.machine(threads=1)},
        "versions": {name: versions[0] for name, versions in installed.items() if versions},
        "summary": {outcome: ended.count(outcome) for outcome in sorted(set(ended))},
        "tests": tests,
    }


if __name__ == "__main__":
    sys.exit(main())
