"""What runs the engine inside Triton: each request gets its own answer, whether the engine is fast or slow."""

import queue
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferInput

from flows import sandbox
from tests.miniature import ROOT
from tests.test_package import CLASSES, inputs, make

__all__ = ["inputs"]
SHAPE = (3, 8, 8)
BACKEND = """
import time
import numpy as np
SUFFIX = ".onnx"
def load(path, threads):
    def predict(x):
        time.sleep({seconds})
        if (x == 13).any():
            raise RuntimeError("no kernel for 13")
        return x[:, :, 0, 0] / 100
    return predict
"""


@pytest.fixture(params=[0.0, 0.01], ids=["fast", "slow"])
def served(
    request: pytest.FixtureRequest, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A server with a toy engine that takes so many seconds."""
    monkeypatch.chdir(ROOT)
    make(inputs, tmp_path / "package")
    with tempfile.TemporaryDirectory(dir=".state") as name:
        repository = Path(name, "repository")
        shutil.copytree(tmp_path / "package/repository", repository)
        backend = repository / "toy_engine/1/backend.py"
        backend.unlink()
        backend.write_text(BACKEND.format(seconds=request.param))
        with sandbox.sandbox(repository, "toy_tensor", name="engine-model") as found:
            yield found


def ask(served: Any, samples: list[Any]) -> list[Any]:
    """Send all at once; return each one's answer, or why there is none."""
    answers: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    for number, x in enumerate(samples):
        given = InferInput("input", x.shape, "FP32").set_data_from_numpy(x)
        callback = lambda result, error, number=number: answers.put((number, result, error))  # noqa: E731
        served.client.async_infer("toy_tensor", [given], callback)
    found = [answers.get(timeout=30) for _ in samples]
    return [result or error for _, result, error in sorted(found, key=lambda each: each[0])]


def sample(value: float, count: int = 1) -> Any:
    """Return samples of which each class's logit is the value of a pixel: value, 2 x value, -value."""
    x = np.zeros((count, *SHAPE), np.float32)
    x[:, :, 0, 0] = [value, 2 * value, -value]
    return x


def expected(x: Any) -> Any:
    powers = np.exp(x[:, :, 0, 0] / 100)
    return powers / powers.sum(axis=1, keepdims=True)


def test_each_of_many_requests_gets_its_own_answer(served: Any) -> None:
    samples = [sample(1.0 + number, 1 + number % 5) for number in range(100) if number != 12]
    for x, answer in zip(samples, ask(served, samples), strict=True):
        np.testing.assert_allclose(answer.as_numpy("scores"), expected(x), rtol=1e-5)
        assert set(answer.as_numpy("label").ravel()) == {CLASSES[1].encode()}


def test_what_is_refused_or_fails_takes_no_other_answer_along(served: Any, request: pytest.FixtureRequest) -> None:
    failure = "the engine failed: no kernel for 13" if "slow" in request.node.name else "no kernel for 13"
    good, bad, broken = sample(5.0), sample(np.nan), sample(13.0)
    for _ in range(3):
        for asked in ([bad], [broken], [good]):
            (answer,) = ask(served, asked)
            if asked[0] is good:
                np.testing.assert_allclose(answer.as_numpy("scores"), expected(good), rtol=1e-5)
            else:
                words = "NaN or infinite" if asked[0] is bad else failure
                assert words in str(answer)
    answers = ask(served, [good, bad] * 20)
    assert all("NaN or infinite" in str(each) for each in answers[1::2])
    for each in answers[::2]:
        np.testing.assert_allclose(each.as_numpy("scores"), expected(good), rtol=1e-5)
