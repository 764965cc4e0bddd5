"""A YAML file, read with DVC's own parser; whatever is wrong with it is said in one sentence, with its line or key."""

from datetime import date
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent
from ruamel.yaml.reader import ReaderError

DEEPEST, MOST = 20, 10_000  # levels and values, aliases followed; beyond them parsers recurse to death or for hours
LARGEST = 2**63


def load(path: Path, keys: str) -> dict[str, Any]:
    """Return what a file holds: groups, lists, texts and finite numbers; `ValueError` names line or key, and remedy.

    `keys` says what it ought to hold.
    """
    text = decoded(path)
    parser = YAML(typ="safe")  # as DVC makes it: what is read here is what DVC reads
    parser.Constructor = Marked
    try:
        bounded(text)
        content = parser.load(text)
    except YAMLError as error:
        raise ValueError(f"{path}: {words(error, text)}; mend the YAML there") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: it must hold {keys}, got {shown(content)}; mend it or bring it back")
    usable(content, str(path))
    return content


def decoded(path: Path) -> str:
    """Return a file's text; `ValueError` names the line that is no UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}: line {line}: byte 0x{error.object[error.start]:02x} is no UTF-8; save the file as UTF-8"
        ) from None
    except FileNotFoundError:
        raise ValueError(f"no {path} here; run this in the checkout's root") from None


def bounded(text: str) -> None:
    """Raise `YAMLError` where a text nests too deep or unfolds to too many values, before anything is unfolded."""
    sizes: dict[str, tuple[int, int]] = {}  # values and levels below an anchor
    open_nodes: list[list[Any]] = [[None, 0, 0]]  # anchor, values, levels
    for event in YAML(typ="safe").parse(text):
        if isinstance(event, CollectionStartEvent):
            open_nodes.append([event.anchor, 0, 0])
            values, levels = 0, 0
        elif isinstance(event, CollectionEndEvent):
            anchor, values, levels = open_nodes.pop()
            values, levels = values + 1, levels + 1
            sizes[anchor] = values, levels
        elif isinstance(event, AliasEvent):
            if any(anchor == event.anchor for anchor, *_ in open_nodes):
                raise wrong(f"*{event.anchor} stands for what it is itself part of", event.start_mark)
            values, levels = sizes.get(event.anchor, (1, 0))
        elif isinstance(event, NodeEvent):
            sizes[event.anchor] = values, levels = 1, 0
        else:
            continue
        above = open_nodes[-1]
        above[1], above[2] = above[1] + values, max(above[2], levels)
        if len(open_nodes) + levels > DEEPEST:
            raise wrong(f"nested more than {DEEPEST} levels deep", event.start_mark)
        if above[1] > MOST:
            raise wrong(f"more than {MOST:,} values, what its aliases stand for counted in", event.start_mark)


class Marked(SafeConstructor):
    """Makes values; what is not what it looks like (`2020-13-45`, `!!int x`) is an error with its line, too."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Return a node's value."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            kind = node.tag.rsplit(":", 1)[-1]
            raise wrong(f"{shown(node.value)} is no valid {kind}", node.start_mark) from None


def wrong(problem: str, mark: Any) -> MarkedYAMLError:
    """Return an error of ours in the parser's own form."""
    return MarkedYAMLError(problem=problem, problem_mark=mark)


def words(error: Any, text: str) -> str:
    """Say in one line where a text is no YAML, why, and what stands there."""
    if isinstance(error, ReaderError):
        line = text.encode()[: error.position].count(b"\n") + 1
        return f"line {line}: a character that has no place in a text, {shown(chr(error.character))}"
    lines, mark, start = text.split("\n"), error.problem_mark, error.context_mark
    problem = " ".join(str(error.problem).split()).split(" with value ")[0].removeprefix("but ")
    problem = problem.replace("could not determine a constructor for the tag", "there is no tag")
    problem = problem if len(problem) <= 100 else f"{problem[:99]}…"
    since = f", {error.context} (line {start.line + 1})" if start and start.line != mark.line else ""
    found = lines[mark.line].strip(" ") if mark.line < len(lines) else ""
    return f"line {mark.line + 1}: {problem}{since}, at {shown(found) if found else 'the end'}"


def usable(value: Any, where: str) -> None:
    """Raise `ValueError` for a date, a set, a key that is no text, a number without end: of no use as a knob."""
    if isinstance(value, dict):
        for key, below in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where}: a key has to be text, got {shown(key)}; put it in quotes or mend it")
            usable(below, at(where, key))
    elif isinstance(value, list):
        for i, below in enumerate(value):
            usable(below, at(where, str(i)))
    elif isinstance(value, float | int) and not abs(value) < LARGEST:  # nor is nan
        raise ValueError(f"{where}: Input should be a number between -2**63 and 2**63, got {shown(value)}")
    elif not isinstance(value, str | float | int | None):
        kind = type(value).__name__
        raise ValueError(f"{where}: Input should be a text, a number, a list or a group, got a {kind}, {shown(value)}")


def at(where: str, key: str) -> str:
    """Return the place of a key: `params.yaml: pipelines.fashion`; a key that would not read well is quoted."""
    plain = key.isprintable() and 0 < len(key) <= 40 and not set(key) & set(" .:'\"")
    return f"{where}{'.' if ': ' in where else ': '}{key if plain else shown(key)}"


def shown(value: Any) -> str:
    """Return a value as people may want to see it: not all of it where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = str(value) if isinstance(value, date) else repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
