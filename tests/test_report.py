"""report: a page that shows all there is, needs no other file, and believes no name."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks import mistakes, pictures, reliability
from tasks.problems.classification.score import score
from tasks.report import report
from tests import reported
from tests.conftest import Miniature
from tests.finished import write
from tests.reported import CLASSES, COUNTS, ENGINE, REFERENCE, Page

# Elements that the page is made of, those within a chart aside.
OURS = {"html", "head", "meta", "title", "style", "body", "section", "h1", "h2", "h3", "nav", "a", "div", "span"}
OURS |= {"strong", "small", "p", "b", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "code", "img"}
OURS |= {"figure", "figcaption"}
CHART = {"svg", "g", "path", "defs", "use", "clippath", "rect", "style"}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Toys for one report."""
    return reported.inputs(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def made(asked: dict[str, Any]) -> Page:
    """One report of toys, taken apart."""
    report(**asked)
    return reported.page(asked["out"])


def is_self_contained(made: Page) -> bool:
    """Tell whether a browser finds all of a page inside it."""
    places = [value for _, attributes in made.elements for name, value in attributes.items() if name in PLACES]
    inside = all(str(place).startswith(("data:", "#")) for place in places)
    styled = re.findall(r"url\((?!#)|@import|expression\(", made.text)
    return inside and not styled and not made.of("script") and not made.of("link")


PLACES = {"src", "href", "xlink:href", "srcset", "data", "action", "poster", "background"}


def test_no_name_becomes_markup(made: Page) -> None:
    assert {tag for tag, _ in made.elements} <= OURS | CHART
    attributes = {name for _, given in made.elements for name in given}
    assert not [name for name in attributes if name.startswith("on")]
    assert len(made.of("h1")) == 1


def test_the_page_needs_no_other_file_and_may_load_none(made: Page) -> None:
    assert is_self_contained(made)
    assert "default-src 'none'" in str(made.of("meta")[1]["content"])
    text = made.text.replace("incoming/https://elsewhere", "")  # the name of a rejected file
    assert not re.search(r"https?://", text)


def test_every_datum_is_in_the_page(made: Page) -> None:
    said = made.said()
    names = [*CLASSES, *(each.name for each in reported.REJECTED), *(each.reason for each in reported.REJECTED)]
    rows = reported.selection(ENGINE)["rows"]
    names += [row["engine"] for row in rows] + [row["verdict"] for row in rows]
    names += [
        "toy <i>",
        "flip",
        "range -2 to 2",
        "loudness",
        "0.1",
        "Guo",
        "max_accuracy_drop 0.005",
        "n=300 calls",
        "1,234",
        "a <b>toy</b> CPU",
    ]
    names += ["0.9000, 0.8200 to 0.9500 (95 % interval, n=100)", "66 files seen = 64 used + 2 rejected"]
    assert [name for name in names if name not in said] == []
    shown = {each["alt"] for each in made.of("img")}
    assert {"Samples, and variants of them: all changes", "Samples, and variants of them: flip"} <= shown


def test_every_picture_has_words(made: Page) -> None:
    assert all(each["alt"] for each in made.of("img")) and len(made.of("img")) == 5
    assert all(each["aria-label"] for each in made.of("svg")) and len(made.of("svg")) == 3


def test_counts_are_those_of_the_data(made: Page, asked: dict[str, Any]) -> None:
    head, *rows, total = made.tables[0]
    assert head == ["class", *COUNTS] and [row[0] for row in rows] == CLASSES
    used = reported.facts(asked["prepare"] / "report.json")["used"]
    for column, split in enumerate(COUNTS, start=1):
        assert sum(int(row[column]) for row in rows) == int(total[column]) == used[split]


def test_the_same_inputs_give_the_same_bytes(asked: dict[str, Any], made: Page, tmp_path: Path) -> None:
    report(**asked | {"out": tmp_path / "again.html"})
    assert (tmp_path / "again.html").read_text() == made.text
    assert [path.name for path in asked["out"].parent.iterdir()] == ["toy.html"]


def matrix_of(made: Page) -> list[list[str]]:
    """Return the confusion matrix of a page, without its head."""
    (table,) = [table for table in made.tables if "answer →" in table[0][0]]
    return table[1:]


def number(text: str) -> int:
    return 0 if text == "·" else int(text.replace(",", ""))


def test_the_matrix_holds_every_sample_once(made: Page) -> None:
    rows = matrix_of(made)
    counts = np.array([[number(cell) for cell in row[1:-2]] for row in rows])
    assert [row[0] for row in rows] == CLASSES and counts.sum() == COUNTS["test"]
    assert counts.trace() == COUNTS["test"] - 4
    assert [int(row[-2]) for row in rows] == counts.sum(1).tolist() == [10] * 4
    assert [row[-1] for row in rows] == [f"{counts[i, i] / 10:.1%}" for i in range(4)]


def test_of_many_classes_the_most_confused_stay_and_no_sample_is_lost() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 200, 5000)
    answer = np.where((truth < 9) & (generator.random(5000) < 0.5), (truth + 1) % 200, truth)
    counts = mistakes.matrix(truth, answer, 200)
    small, names = mistakes.fold(counts, [str(i) for i in range(200)])
    assert small.sum() == counts.sum() == 5000 and len(names) == mistakes.MOST + 1 == len(small)
    assert names[:9] == [str(i) for i in range(9)] and names[-1] == f"{200 - mistakes.MOST} others"
    alone = [int(name) for name in names[:-1]]
    assert (small[:-1, :-1] == counts[np.ix_(alone, alone)]).all()
    page = Page(str(mistakes.confusion(truth, answer, [str(i) for i in range(200)])))
    assert sum(number(cell) for row in matrix_of(page) for cell in row[1:-2]) == 5000
    assert matrix_of(page)[-1][-1] == "-", "of several classes the diagonal is no share of right answers"


def test_the_surest_mistake_comes_first_with_its_own_picture(made: Page) -> None:
    captions = re.findall(r"taken for .*?confidence ([\d.]+)test sample (\d+)", made.said())
    assert [int(row) for _, row in captions] == [17, 30, 21, 3]
    assert [float(sure) for sure, _ in captions] == sorted((float(sure) for sure, _ in captions), reverse=True)
    gallery = made.text[made.text.index('class="gallery"') :]
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', gallery)
    levels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))).max() for each in pictures]
    assert levels == [17, 30, 3], "sample 21 can't be shown"
    assert "no picture" in gallery


def test_without_a_mistake_the_page_says_so(asked: dict[str, Any], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    kept = load_file(asked["answers"])
    save_file(kept | {ENGINE: kept["truth"]}, tmp_path / "answers.safetensors")
    report(**asked | {"answers": tmp_path / "answers.safetensors", "out": tmp_path / "out.html"})
    said = reported.page(tmp_path / "out.html").said()
    assert "None: every answer is right (n=40)." in said and "Nothing is confused." in said


def test_where_no_engine_was_chosen_the_original_is_judged(asked: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "select.json", reported.selection(None))
    report(**asked | {"select": tmp_path / "select.json", "out": tmp_path / "out.html"})
    made = reported.page(tmp_path / "out.html")
    assert f"Of {REFERENCE} on the test set; no engine was chosen." in made.said()
    assert "over max_accuracy_drop 0.005 (n=40)" in made.said()
    assert "chosen" not in {each.get("class") for each in made.of("tr")}


def test_a_model_that_others_trained_has_one_point_and_no_loss(asked: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "curves/curves.csv", "epoch,step,seconds,validation,low,high\n0,0,0.0,0.9,0.82,0.95\n")
    write(tmp_path / "train_metrics.json", reported.verdict() | {"epochs": 0})
    changed = {"curves": tmp_path / "curves", "train_metrics": tmp_path / "train_metrics.json"}
    report(**asked | changed | {"out": tmp_path / "out.html"})
    assert "imported, not trained" in reported.page(tmp_path / "out.html").said()


@pytest.mark.parametrize(
    ("confidence", "words"),
    [(0.95, "the lower end of its 95 % interval"), (0.8, "the lower end of its 80 % interval"), (0, "accuracy itself")],
)
def test_the_page_says_what_had_to_clear_the_target(
    asked: dict[str, Any], tmp_path: Path, confidence: float, words: str
) -> None:
    write(tmp_path / "train_metrics.json", reported.verdict() | {"confidence": confidence})
    report(**asked | {"train_metrics": tmp_path / "train_metrics.json", "out": tmp_path / "out.html"})
    assert reported.page(tmp_path / "out.html").said().count(words) == 2  # in the headline and beside the curves


# Confidence.


def test_a_confidence_is_the_softmax_of_the_answer_and_changes_no_answer() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 300, (50, 4)).astype(np.float32)
    truth = generator.integers(0, 4, 50)
    counts, guess, confidence = score(lambda x: x, [(logits[:30], truth[:30]), (logits[30:], truth[30:])], ["a"] * 4)
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    assert np.allclose(confidence, (powers / powers.sum(1, keepdims=True)).max(1), atol=1e-6)
    assert confidence.dtype == np.float32 and confidence.max() <= 1 and confidence.min() >= 0.25
    assert (guess == logits.argmax(1)).all() and counts["correct"] == (guess == truth).sum()


def test_every_sample_is_in_one_bin_open_below() -> None:
    edges = np.arange(1, reliability.BINS + 1) / reliability.BINS
    found = reliability.bins(edges, np.ones(len(edges), bool))
    assert [row["n"] for row in found] == [1] * reliability.BINS
    for row, edge in zip(found, edges, strict=True):
        assert row["low"] < edge <= row["high"] + 1e-12 and row["confidence"] == pytest.approx(edge)


@pytest.mark.parametrize(("sure", "share"), [(0.8, 0.5), (0.55, 0.55), (0.3, 1.0), (1.0, 0.0)])
def test_the_expected_error_of_one_bin_is_its_gap(sure: float, share: float) -> None:
    right = np.arange(100) < round(100 * share)
    error = reliability.expected_error(reliability.bins(np.full(100, sure), right))
    assert error == pytest.approx(abs(sure - share), abs=1e-9)


def test_gaps_are_weighed_by_samples_and_do_not_cancel_out() -> None:
    confidence = np.array([0.9] * 300 + [0.5] * 100)
    right = np.concatenate([np.arange(300) < 240, np.arange(100) < 70])  # 0.8 and 0.7
    assert reliability.expected_error(reliability.bins(confidence, right)) == pytest.approx(0.75 * 0.1 + 0.25 * 0.2)


def test_a_calibrated_engine_has_next_to_no_error() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.2, 1, 200_000)
    right = generator.random(200_000) < confidence
    found = reliability.bins(confidence, right)
    assert reliability.expected_error(found) < 0.005
    assert sum(row["accuracy_low"] <= row["confidence"] <= row["accuracy_high"] for row in found if row["n"]) >= 10


def test_a_dollar_sign_in_a_class_is_no_formula(tmp_path: Path) -> None:
    pictures.class_balance(tmp_path / "balance.png", ["$\\frac{", "a$b$c"], {"train": [1, 2], "test": [2, 1]})
    assert (tmp_path / "balance.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("right", [True, False])
def test_a_bin_that_is_all_right_or_all_wrong_is_drawn(tmp_path: Path, right: bool) -> None:
    confidence = np.repeat(np.arange(0.05, 1, 1 / reliability.BINS), np.arange(reliability.BINS) * 7 + 1)
    found = reliability.bins(confidence, np.full(len(confidence), right))
    assert all(row["accuracy_low"] <= right <= row["accuracy_high"] for row in found), "rounding aside"
    pictures.reliability(tmp_path / "plot.png", found)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


# The shared run's own.


def test_the_page_of_a_run_agrees_with_what_its_stages_left(ran: Miniature) -> None:
    made = reported.page(ran.folder / "models/report/fashion.html")
    table = reported.facts(ran.folder / "models/select/fashion.json")
    rows = {row["engine"]: row for row in table["rows"]}
    assert is_self_contained(made)
    assert [word for word in (*rows, *(row["verdict"] for row in rows.values())) if word not in made.said()] == []
    counts = np.array([[number(cell) for cell in row[1:-2]] for row in matrix_of(made)])
    assert counts.sum() == 400 and counts.trace() / 400 == pytest.approx(rows[table["chosen"]]["accuracy"], abs=1e-6)
    _, *classes, _ = made.tables[0]
    spec = reported.facts(ran.folder / "data/prepare/fashion/spec.json")
    for column, count in enumerate(spec["counts"].values(), start=1):
        assert sum(number(row[column]) for row in classes) == count
    strips = list((ran.folder / "data/augment/fashion").glob("*.png"))
    assert len([each for each in made.of("figure") if each.get("class") == "strip"]) == len(strips) > 0
