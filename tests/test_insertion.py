"""A block gets into params.yaml, by `add` as by `new`, and every other byte of it stays."""

import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import cli
from flows.insertion import insert
from flows.terminal import WIDTH
from tests.miniature import ROOT

SHIPPED = (ROOT / "params.yaml").read_text()
BLOCK = SHIPPED[SHIPPED.index("  fashion:\n") :]
TOY = "# Toys: a block to try things with.\ntoys:   # a name\n" + "\n".join(
    line.removeprefix("  ") for line in BLOCK.splitlines()[1:]
)
TAIL = "\n# the backends\nbackends: [onnxruntime]   # one\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a checkout with two examples."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/toys.yaml").write_text(textwrap.indent(TOY, "  ") + "\n")  # as it stands in params.yaml
    bare = "\n".join(line.removeprefix("  ") for line in TOY.splitlines()[2:])
    (tmp_path / "examples/games.yaml").write_text(f"# Games: a block without a name.\n{bare}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def toys() -> dict[str, Any]:
    """Return what params.yaml holds of the block."""
    return dict(yaml.safe_load(TOY)["toys"])


FORMS = {
    "as shipped": SHIPPED,
    "no newline at the end": SHIPPED.rstrip("\n"),
    "Windows": SHIPPED.replace("\n", "\r\n"),
    "a comment at the end": SHIPPED + "# the end\n\n\n",
    "pipelines first": "# all\n"
    + SHIPPED[SHIPPED.index("pipelines:") :]
    + TAIL
    + SHIPPED[SHIPPED.index("serving:") : SHIPPED.index("pipelines:")],
    "no pipeline": SHIPPED[: SHIPPED.index("  fashion:")],
    "no pipeline, in braces": SHIPPED[: SHIPPED.index("pipelines:")] + "pipelines:   # none yet\n",
    "four blanks": SHIPPED[: SHIPPED.index("  fashion:")]
    + "".join(f"  {line}" if line.strip() else line for line in BLOCK.splitlines(keepends=True)),
    "umlauts": SHIPPED.replace("# Every knob", "# Überall ✓ Every knob"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_block_gets_in_and_every_other_byte_stays(here: Path, form: str) -> None:
    before = FORMS[form].encode()
    (here / "params.yaml").write_bytes(before)
    insert("toys", TOY)
    after = (here / "params.yaml").read_bytes()
    start = next(i for i in range(len(before) + 1) if i == len(before) or before[i] != after[i])
    assert any(after[:cut] + after[cut + len(after) - len(before) :] == before for cut in range(start + 1))
    old, new = yaml.safe_load(before), yaml.safe_load(after)
    assert new == old | {"pipelines": (old["pipelines"] or {}) | {"toys": toys()}}
    assert "# Toys: a block to try things with." in after.decode()
    if form == "Windows":
        assert b"\n" not in after.replace(b"\r\n", b"")
    assert sorted(path.name for path in here.iterdir()) == ["dvc.yaml", "examples", "params.yaml"]


def test_a_linked_file_stays_a_link_and_keeps_its_mode(here: Path) -> None:
    (here / "elsewhere").mkdir()
    (here / "params.yaml").rename(here / "elsewhere/knobs.yaml")
    (here / "elsewhere/knobs.yaml").chmod(0o640)
    (here / "params.yaml").symlink_to("elsewhere/knobs.yaml")
    insert("toys", TOY)
    assert (here / "params.yaml").is_symlink() and "toys" in yaml.safe_load((here / "params.yaml").read_text())[
        "pipelines"
    ]
    assert (here / "elsewhere/knobs.yaml").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in (here / "elsewhere").iterdir()] == ["knobs.yaml"]


WRONG = {
    "a name that is taken": (SHIPPED, TOY.replace("toys:", "fashion:"), "fashion", "there is such a pipeline"),
    "a knob that is wrong": (
        SHIPPED,
        TOY.replace("golden: 32", "golden: many"),
        "toys",
        "toys.prepare.golden: .*'many'",
    ),
    "a section that is missing": (
        SHIPPED,
        TOY.replace("  evaluate:\n    batch_size: 500\n", ""),
        "toys",
        "missing; add it",
    ),
    "a wrong deploy": (SHIPPED, TOY.replace("grace_s: 600", "grace_s: -1"), "toys", "toys.deploy.grace_s"),
    "knobs that contradict each other": (SHIPPED, TOY.replace("512 ", "2000 "), "toys", "min_calibration: .* at most"),
    "braces": (
        SHIPPED[: SHIPPED.index("pipelines:")] + "pipelines: {a: {}}\n",
        TOY,
        "toys",
        "as lines below each other",
    ),
    "empty braces": (
        SHIPPED[: SHIPPED.index("pipelines:")] + "pipelines: {}\n",
        TOY,
        "toys",
        "as lines below each other",
    ),
    "no pipelines": (SHIPPED[: SHIPPED.index("pipelines:")], TOY, "toys", "params.yaml: pipelines: missing; add it"),
    "an end of document": (SHIPPED + "...\n", TOY, "toys", "params.yaml: "),
    "broken YAML": (SHIPPED + "  x: [\n", TOY, "toys", r"params.yaml: line \d+"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_changes_nothing(here: Path, kind: str) -> None:
    before, block, name, words = WRONG[kind]
    (here / "params.yaml").write_text(before)
    with pytest.raises(ValueError, match=words):
        insert(name, block)
    assert (here / "params.yaml").read_text() == before
    assert sorted(path.name for path in here.iterdir()) == ["dvc.yaml", "examples", "params.yaml"]


def test_an_example_is_added_with_its_comments(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["add", "toys"]) == 0 and cli.main(["add", "games"]) == 0
    said = capsys.readouterr().out
    assert "make run PIPELINE=toys" in said and "make run PIPELINE=games" in said
    text = (here / "params.yaml").read_text()
    assert text.startswith(SHIPPED) and "\n  # Toys: a block to try" in text
    found = yaml.safe_load(text)["pipelines"]
    assert found["toys"] == found["games"] == found["fashion"]


def test_examples_are_listed_with_what_they_are(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["add"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "  games           Games: a block without a name.",
        "  toys            Toys: a block to try things with.",
    ]


@pytest.mark.parametrize("name", ["toy", "../params", "toys.yaml", ""])
def test_an_unknown_example_is_refused_with_those_there_are(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert cli.main(["add", name]) == 1
    said = capsys.readouterr().out
    assert f"no example {name!r}; there are:" in said and "Toys: a block to try things with." in said
    assert (here / "params.yaml").read_text() == SHIPPED


def test_an_example_is_added_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["add", "toys"]) == 0
    before = (here / "params.yaml").read_bytes()
    assert cli.main(["add", "toys"]) == 1
    assert "there is such a pipeline" in capsys.readouterr().out and (here / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_that_ships_is_lawful(here: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(path, here / "examples")
    assert cli.main(["add", path.stem]) == 0, capsys.readouterr().out
    cli.main(["add"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"  {path.stem} ") and len(line) > 20 for line in lines)
    assert max(map(len, lines)) <= WIDTH
