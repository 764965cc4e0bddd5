"""add: a block that ships with the project, from examples/, becomes a pipeline of params.yaml."""

import textwrap
from itertools import takewhile
from pathlib import Path

from flows import terminal
from flows.insertion import insert
from tasks.document import load, shown
from tasks.params import KEYS, PARAMS

EXAMPLES = Path("examples")


def add(example: str | None) -> int:
    """Put an example into params.yaml; without a name list those there are; return 0."""
    known = {path.stem: path for path in sorted(EXAMPLES.glob("*.yaml"))}
    if example is None:
        for line in listed(known):
            terminal.say(line)
        return 0
    if example not in known:
        raise ValueError("\n".join([f"no example {shown(example)}; there are:", *listed(known)]))
    name, block = read(known[example])
    insert(name, block)
    terminal.paragraph(f"added to {PARAMS}: pipelines.{name}. Next:")
    terminal.say(f"  make run PIPELINE={name}")
    return 0


def listed(known: dict[str, Path]) -> list[str]:
    """Return what there is: each example's name and the first sentence of its first comment."""
    lines = []
    for name, path in known.items():
        said = f"{name:<14}  {title(path.read_text())}".rstrip()
        lines += textwrap.wrap(said, terminal.width(), initial_indent="  ", subsequent_indent=" " * 18)
    return lines or ["  none"]


def title(text: str) -> str:
    """Return the first sentence of the comment that a text begins with."""
    comment = takewhile(lambda line: line.startswith("#"), map(str.strip, text.strip().splitlines()))
    sentence, _, _ = " ".join(line.lstrip("# ") for line in comment).partition(". ")
    return sentence.rstrip(".") + "." if sentence else ""


def read(path: Path) -> tuple[str, str]:
    """Return the name of an example's pipeline and its block; one without a name is called as its file."""
    content, text = load(path, "a pipeline's block"), textwrap.dedent(path.read_text())
    if set(KEYS) <= content.keys():
        return path.stem, f"{path.stem}:\n" + textwrap.indent(text, "  ")
    if len(content) != 1:
        raise ValueError(f"{path}: it must hold one pipeline, got {shown(list(content))}")
    return next(iter(content)), text
