"""The parts of a page for people: every text is escaped, every picture inside, nothing is loaded from elsewhere."""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

STYLE = Path(__file__).with_name("page.css")
# A browser that meets the page loads and runs nothing, whatever a name of class or file may hold.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Text that is HTML already; any other is escaped on its way into a page."""


def page(title: str, head: Html, sections: dict[str, Html]) -> str:
    """Return a whole page: title, what stands above all, a line of links, the sections."""
    links = tag("nav", *(tag("a", name, href=f"#{slug(name)}") for name in sections))
    parts = [tag("section", tag("h2", name), content, id=slug(name)) for name, content in sections.items()]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<meta name='color-scheme' content='light dark'>{tag('title', title)}<style>{STYLE.read_text()}</style></head>"
        f"{tag('body', tag('h1', title), head, links, *parts)}</html>\n"
    )


def safe(value: object) -> Html:
    """Return HTML as it is, anything else as escaped text."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(*parts: object) -> Html:
    """Put parts one behind the other."""
    return Html("".join(safe(part) for part in parts))


def tag(name: str, *content: object, **attributes: object) -> Html:
    """Return an element; an attribute ends in `_` where its name is a word of Python, and is left out where empty."""
    given = "".join(f' {key.rstrip("_")}="{html.escape(str(value))}"' for key, value in attributes.items() if value)
    return Html(f"<{name}{given}>{join(*content)}</{name}>")


def slug(title: str) -> str:
    """Return a title as the name of a place in the page."""
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def sentence(*content: object, class_: str = "") -> Html:
    """Return a paragraph."""
    return tag("p", *content, class_=class_)


def wide(content: object) -> Html:
    """Return content that scrolls sideways where the screen is narrower."""
    return tag("div", content, class_="wide")


def table(
    head: Sequence[object], rows: Iterable[Sequence[object]], words: Sequence[int] = (0,), marked: int | None = None
) -> Html:
    """Return a table; its columns `words` hold words, the others numbers; the row `marked` stands out."""
    kinds = ["word" if i in words else "" for i in range(len(head))]
    first = tag("tr", *(tag("th", each, scope="col", class_=kind) for each, kind in zip(head, kinds, strict=True)))
    body = [
        tag(
            "tr",
            *(tag("td", each, class_=kind) for each, kind in zip(row, kinds, strict=True)),
            class_="chosen" if number == marked else "",
        )
        for number, row in enumerate(rows)
    ]
    return wide(tag("table", tag("thead", first), tag("tbody", *body)))


def folded(title: object, content: object, is_open: bool = False) -> Html:
    """Return content behind a line that opens it."""
    return Html(f"<details{' open' if is_open else ''}>{tag('summary', title)}{safe(content)}</details>")


def tiles(facts: Iterable[tuple[object, object, object]]) -> Html:
    """Return headline figures: what, how much, and under which conditions."""
    cards = [
        tag("div", tag("span", what), tag("strong", value), tag("small", note), class_="tile")
        for what, value, note in facts
    ]
    return tag("div", *cards, class_="tiles")


def noted(what: object, note: str) -> Html:
    """Return something with a note below it, in small."""
    return join(what, tag("small", note, class_="note") if note else "")


def bar(value: int, most: int) -> Html:
    """Return a number on a bar as long as its share of the largest."""
    return tag("span", f"{value:,}", class_="bar", style=f"--share:{100 * value / max(1, most):.0f}%")


def picture(png: bytes | str, alt: str, kind: str = "") -> Html:
    """Return a PNG, as bytes or base64, inside the page."""
    data = png if isinstance(png, str) else base64.b64encode(png).decode()
    return Html(f'<img class="{kind}" alt="{html.escape(alt)}" src="data:image/png;base64,{data}">')


def captioned(content: object, *caption: object, kind: str = "") -> Html:
    """Return a figure with its caption."""
    return tag("figure", content, tag("figcaption", *caption), class_=kind)
