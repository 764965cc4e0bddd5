"""The page that shows every rejected file: its name, the reason, and a thumbnail where it can be shown."""

import base64
import html
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHOWN, THUMBNAIL = 500, 96  # rows with a thumbnail; pixels of its longer side
STYLE = (
    "body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:60rem;color:#222}table{border-collapse:collapse}"
    "td,th{padding:.4rem .8rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:middle}"
    "td:first-child{width:110px;text-align:center;color:#888}code{word-break:break-all}"
)


@dataclass(frozen=True)
class Rejected:
    """A file that is not used."""

    name: str
    reason: str
    data: bytes


def page(out: Path, seen: str, rejected: list[Rejected], picture: Callable[[bytes], Any]) -> None:
    """Write one self-contained HTML page; `picture` gives a file's pixels (uint8 HW or HWC), or None."""
    rows = [row(each, picture(each.data) if i < SHOWN else None) for i, each in enumerate(rejected)]
    head = "<tr><th></th><th>file</th><th>reason</th></tr>" if rows else ""
    out.write_text(
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Rejected files</title><style>{STYLE}</style>"
        f"<h1>Rejected files</h1><p>{html.escape(seen)}</p><table>{head}{''.join(rows)}</table></html>\n"
    )


def table(page: str) -> str:
    """Return the table of such a page, to stand in another."""
    return page[page.index("<table>") : page.rindex("</table>") + len("</table>")]


def row(each: Rejected, pixels: Any) -> str:
    """Return one line of the table; names and reasons come from strangers, so they are escaped."""
    shown = "no picture" if pixels is None else f"<img alt='' src='data:image/png;base64,{thumbnail(pixels)}'>"
    return f"<tr><td>{shown}</td><td><code>{html.escape(each.name)}</code></td><td>{html.escape(each.reason)}</td></tr>"


def thumbnail(pixels: Any) -> str:
    """Return a small PNG as base64."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
