"""status: what changed is named exactly, what may follow is not called fresh, and looking changes nothing."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from flows import terminal
from flows.staleness import Reason, Standing, View, standings
from flows.status import stages_page, status, tools_page
from tests.finished import write
from tests.miniature import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")  # pygtrie's, of DVC's own calls

LABELS = ["a label of some length", "another label of some length", "a third label of some length"]
KNOBS = {"target": 0.9, "shift": {"range": [-2, 2]}, "classes": LABELS}
STAGES: dict[str, dict[str, Any]] = {
    "fetch": {
        "cmd": "mkdir -p data/fetch && cp -r data/incoming/${key} data/fetch/ && touch data/fetch/${key}/ready",
        "deps": ["data/incoming/${key}"],
        "outs": ["data/fetch/${key}"],
    },
    "train": {
        "cmd": "sh tasks/learner.sh > models/train/${key}",
        "deps": ["data/fetch/${key}", "tasks/learner.sh"],
        "params": ["pipelines.${key}.train"],
        "outs": ["models/train/${key}"],
    },
    "record": {
        "cmd": "cp models/train/${key} models/record/",
        "deps": ["models/train/${key}", "data/fetch/${key}"],
        "outs": ["models/record/${key}"],
    },
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy pipeline without git, every stage of which ran."""
    folder = tmp_path_factory.mktemp("finished") / "toy"
    write(folder / ".dvc/config", "[core]\n    site_cache_dir = .state/dvc\n")
    write(folder / "dvc.yaml", {"stages": {n: {"foreach": "${pipelines}", "do": do} for n, do in STAGES.items()}})
    write(folder / "params.yaml", {"pipelines": {"toy": {"train": KNOBS}}})
    write(folder / "tasks/learner.sh", "cat data/fetch/toy/*\n")
    for name in ("one", "two"):
        write(folder / "data/incoming/toy" / name, name)
    for name in ("train", "record"):
        (folder / "models" / name).mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        reproduce()
    return folder


@pytest.fixture
def toy(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in a path with a space, as the working directory."""
    shutil.copytree(finished, tmp_path / "a toy")
    monkeypatch.chdir(tmp_path / "a toy")
    return tmp_path / "a toy"


def reproduce(*targets: str) -> None:
    """Let DVC run these stages, else all."""
    view = View("toy")
    view.repo.reproduce(targets or None, single_item=bool(targets))
    view.close()


def asked() -> dict[str, Standing]:
    """Return how the toy's stages stand, by their short names."""
    view = View("toy")
    found = {each.stage.removesuffix("@toy"): each for each in standings(view.repo, view.stages())}
    view.close()
    assert list(found) == list(STAGES)
    return found


def states() -> list[str]:
    """Return the states of fetch, train and record."""
    return [each.state for each in asked().values()]


def turn(**changed: Any) -> None:
    """Write other knobs of train to params.yaml."""
    write(Path("params.yaml"), {"pipelines": {"toy": {"train": KNOBS | changed}}})


def test_what_ran_is_fresh_and_has_no_reasons(toy: Path) -> None:
    assert set(asked().values()) == {Standing(f"{name}@toy", "fresh", (), ()) for name in STAGES}


def test_a_changed_knob_is_named_with_both_values_and_what_follows_is_pending(toy: Path) -> None:
    turn(target=0.85, shift={"range": [-3, 2]}, classes=LABELS[:2], seed=1)
    found = asked()
    assert [found[name].state for name in STAGES] == ["fresh", "stale", "pending"]
    knobs = {(each.kind, each.name): each.detail for each in found["train"].reasons}
    before, after = json.dumps(LABELS), json.dumps(LABELS[:2])
    assert knobs == {
        ("knob", "train.target"): "0.9 -> 0.85",
        ("knob", "train.shift.range.0"): "-2 -> -3",
        ("knob", "train.classes"): f"{before} -> {after}",
        ("knob", "train.seed"): "absent -> 1",
    }
    assert found["record"].after == ("train@toy",) and not found["record"].reasons


def test_changed_and_new_code_and_a_changed_command_are_named(toy: Path) -> None:
    write(toy / "tasks/learner.sh", "cat data/fetch/toy/* #\n")
    write(toy / "tasks/other.sh", "")
    text = (toy / "dvc.yaml").read_text().replace("sh tasks/learner.sh", "sh ./tasks/learner.sh")
    (toy / "dvc.yaml").write_text(text.replace('"tasks/learner.sh"]', '"tasks/learner.sh", "tasks/other.sh"]'))
    assert asked()["train"].reasons == (
        Reason("code", "tasks/learner.sh", "changed"),
        Reason("code", "tasks/other.sh", "new in dvc.yaml"),
        Reason("command", "", "changed in dvc.yaml"),
    )


def test_changed_data_is_counted(toy: Path) -> None:
    write(toy / "data/incoming/toy/three", "3")
    found = asked()
    assert found["fetch"].reasons == (Reason("data", "data/incoming/toy", "2 -> 3 files"),)
    assert states() == ["stale", "pending", "pending"]
    (toy / "data/incoming/toy/one").unlink()
    write(toy / "data/incoming/toy/two", "other")
    reproduce("fetch@toy")
    found = asked()
    assert found["fetch"].state == "fresh" and found["train"].after == ()
    assert found["train"].reasons == (Reason("data", "data/fetch/toy", "files: 1 added, 1 removed, 1 changed"),)


def test_an_output_that_is_missing_is_no_reason_of_the_stage_that_reads_it(toy: Path) -> None:
    shutil.rmtree(toy / "data/fetch/toy")
    found = asked()
    assert found["fetch"].reasons == (Reason("output", "data/fetch/toy", "missing"),)
    assert states() == ["stale", "pending", "pending"]
    assert found["train"].after == ("fetch@toy",) == found["record"].after


def test_only_the_nearest_stage_is_named_as_coming_first(toy: Path) -> None:
    turn(target=0.5)
    write(toy / "data/incoming/toy/two", "other")
    assert [each.after for each in asked().values()] == [(), ("fetch@toy",), ("train@toy",)]


def test_a_stage_that_never_ran_says_so_and_which_input_it_lacks(toy: Path) -> None:
    for name in ("dvc.lock", "data/incoming", "data/fetch", "models"):
        shutil.rmtree(toy / name) if (toy / name).is_dir() else (toy / name).unlink()
    found = asked()
    assert found["fetch"].reasons == (Reason("never ran"), Reason("data", "data/incoming/toy", "missing"))
    assert found["record"].reasons == (Reason("never ran"),) and found["record"].after == ("train@toy",)


def test_a_stage_that_is_running_is_no_error(toy: Path) -> None:
    from dvc.rwlock import rwlock

    view = View("toy")
    written = str(toy / "models/train/toy")
    with rwlock(view.repo.tmp_dir, view.repo.fs, "dvc repro train@toy", [], [written], False):
        assert states() == ["fresh", "running", "pending"]
    view.close()
    assert states() == ["fresh"] * 3


def test_the_page_fits_80_columns_and_cuts_nothing(toy: Path) -> None:
    turn(target=0.85, classes=LABELS[:1])
    names = [f"build@toy-{letter * 14}" for letter in "abcdef"]
    stages = [asdict(each) | {"after": names, "ran": "2026-11-23T22:11:00Z"} for each in asked().values()]
    lines = stages_page({"pipeline": "toy", "prefect_answers": False, "stages": stages})
    text = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= terminal.WIDTH
    assert lines[0] == "toy, 3 stages: 1 stale, 1 may follow, 1 fresh" and "does not answer" in lines[1]
    assert "knob train.target 0.9 -> 0.85" in text and f"{json.dumps(LABELS)} -> {json.dumps(LABELS[:1])}" in text
    assert text.count("ran 2026-11-2") == 3 and text.count("build ffffffffffffff") == 3


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without git in which nothing ever ran, and nothing to ask."""
    for name in ("dvc.yaml", "params.yaml", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def test_where_nothing_ever_ran_all_is_told_and_nothing_written(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def files() -> set[str]:
        found = {str(each.relative_to(bare)) for each in bare.rglob("*") if each.is_file()}
        return {each for each in found if not each.startswith((".dvc/tmp/", ".state/dvc/"))}  # DVC's lock and hashes

    before = files()
    assert status("fashion", as_json=False) == 0
    page = capsys.readouterr().out
    assert status("fashion", as_json=True) == 0
    facts = json.loads(capsys.readouterr().out)
    assert files() == before
    assert {stage["state"] for stage in facts["stages"]} == {"stale"} and facts["run_key"] is None
    assert page.splitlines() == [*stages_page(facts), *tools_page(facts)]
    assert "Prefect at http://127.0.0.1:9/api does not answer" in page and page.count("never ran") == len(
        facts["stages"]
    )
    assert "none: data/prepare/fashion is missing, and 13 more" in page and "deployed   nothing" in page


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pipelines: [", "params.yaml: line 2: "),
        ("", "params.yaml: it must hold"),
        ("a: \x00", "params.yaml: .*mend the YAML"),
        ("backends: [onnxruntime]", "params.yaml: serving: missing"),
    ],
)
def test_a_damaged_params_file_gives_a_sentence(bare: Path, text: str, sentence: str) -> None:
    (bare / "params.yaml").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        status("fashion", as_json=False)
