"""Where a classifier is wrong: the confusion matrix, the pairs most often confused, the worst mistakes as pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from tasks import page, rejects, shards
from tasks.page import Html
from tasks.workload import part

MOST = 30  # classes with a row of their own
PAIRS, SHOWN = 5, 24
DEEP = 0.85  # shade from which white letters are read more easily
SMALL = 48  # pixels; a smaller picture is enlarged without smoothing


def matrix(truth: Any, answer: Any, classes: int) -> Any:
    """Return how often each class (row) got each answer (column), int64 [classes, classes]."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (truth, answer), 1)
    return counts


def fold(counts: Any, names: list[str], most: int = MOST) -> tuple[Any, list[str]]:
    """Keep the classes most often confused, in their order, and put all others into one; the sum stays."""
    if len(names) <= most:
        return counts, names
    wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    kept = np.sort(np.argsort(-wrong, kind="stable")[:most])
    group = np.full(len(names), most)
    group[kept] = np.arange(most)
    small = np.zeros((most + 1, most + 1), np.int64)
    np.add.at(small, (group[:, None], group[None, :]), counts)
    return small, [*(names[i] for i in kept), f"{len(names) - most} others"]


def confusion(truth: Any, answer: Any, classes: list[str]) -> Html:
    """Return the confusion matrix as a table, and the pairs most often confused."""
    whole = matrix(truth, answer, len(classes))
    counts, names = fold(whole, classes)
    corner = page.tag("th", "true class ↓, answer →", scope="col")
    heads = [page.tag("th", page.tag("span", name, title=name), scope="col") for name in (*names, "n", "right")]
    alone = len(classes) if len(names) == len(classes) else MOST  # rows of one class each
    rows = [line(name, numbers, i, i < alone) for i, (name, numbers) in enumerate(zip(names, counts, strict=True))]
    body = page.tag("table", page.tag("thead", page.tag("tr", corner, *heads)), page.tag("tbody", *rows))
    return page.join(
        page.captioned(
            page.tag("div", body, class_="wide matrix"),
            f"Samples of the test set, n={len(truth):,}. Blue is right, orange wrong; the shade is the square root of "
            "the share of the row.",
        ),
        often(whole, classes),
    )


def line(name: str, numbers: Any, place: int, is_class: bool) -> Html:
    """Return one row of the matrix; in a row of several classes the diagonal holds right and wrong."""
    total = int(numbers.sum())
    kinds = [("hit" if is_class else "sum") if i == place else "miss" for i in range(len(numbers))]
    cells = [cell(int(count), total, kind) for count, kind in zip(numbers, kinds, strict=True)]
    right = f"{numbers[place] / total:.1%}" if is_class and total else "-"
    sums = [page.tag("td", each, class_="sum") for each in (f"{total:,}", right)]
    return page.tag("tr", page.tag("th", name, scope="row", class_="word"), *cells, *sums)


def cell(count: int, total: int, kind: str) -> Html:
    """Return one cell of the matrix, shaded by its share of the row."""
    if not count:
        return page.tag("td", "·", class_="sum")
    shade = (count / total) ** 0.5
    deep = " deep" if kind == "hit" and shade > DEEP else ""
    return page.tag("td", f"{count:,}", class_=f"{kind}{deep}", style=f"--shade:{shade:.2f}")


def often(counts: Any, classes: list[str]) -> Html:
    """Name the pairs most often confused."""
    wrong = counts * ~np.eye(len(classes), dtype=bool)
    places = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(places, wrong.shape), strict=True) if wrong[i, j]]
    if not pairs:
        return page.sentence("Nothing is confused.")
    rows = [
        (classes[i], classes[j], f"{wrong[i, j]:,} of {counts[i].sum():,}", f"{wrong[i, j] / counts[i].sum():.1%}")
        for i, j in pairs
    ]
    title = page.tag("h3", "Most often confused")
    return page.join(title, page.table(("true class", "taken for", "samples", "share"), rows, words=(0, 1)))


def hardest(truth: Any, answer: Any, confidence: Any, most: int = SHOWN) -> list[int]:
    """Return the rows of the wrong answers, the most confident first."""
    wrong = np.flatnonzero(truth != answer)
    return [int(row) for row in wrong[np.argsort(-confidence[wrong], kind="stable")][:most]]


def samples(prepare: Path, rows: list[int]) -> dict[int, bytes]:
    """Read the encoded test samples of these rows, and of no others."""
    wanted, found = set(rows), {}
    for row, (file, start, size, _) in enumerate(shards.members(prepare, "test")):
        if row in wanted:
            file.seek(start)
            found[row] = file.read(size)
    return found


def worst(prepare: Path, spec: dict[str, Any], truth: Any, answer: Any, confidence: Any) -> Html:
    """Show the mistakes that the engine was surest of: picture, true class, answer, confidence, row of the test set."""
    rows = hardest(truth, answer, confidence)
    title = page.tag("h3", "The worst mistakes")
    if not rows:
        return page.join(title, page.sentence(f"None: every answer is right (n={len(truth):,})."))
    source = part(spec["workload"], "source")
    input = source.Input.model_construct(**spec)  # spec.json repeats of prepare's knobs what decoding needs
    encoded = samples(prepare, rows)
    classes = spec["classes"]
    shown = [
        page.captioned(
            shot(source.picture(encoded[row], input), classes[truth[row]]),
            page.tag("b", classes[truth[row]]),
            *(
                page.tag("span", words)
                for words in (f"taken for {classes[answer[row]]}", f"confidence {confidence[row]:.4f}")
            ),
            page.tag("span", f"test sample {row:,}"),
        )
        for row in rows
    ]
    count = int((truth != answer).sum())
    words = f"The {len(rows)} wrong answers of {count:,} that the engine was surest of (n={len(truth):,})."
    return page.join(title, page.sentence(words), page.tag("div", *shown, class_="gallery"))


def shot(pixels: Any, alt: str) -> Html:
    """Return a thumbnail, or a word in its place where the sample can't be shown."""
    if pixels is None:
        return page.tag("span", "no picture", class_="none")
    return page.picture(rejects.thumbnail(pixels), alt, "small" if max(pixels.shape[:2]) <= SMALL else "")
