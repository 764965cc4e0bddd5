"""A block put into params.yaml as text: the rest stays byte for byte, and nothing unlawful gets in."""

import os
import shutil
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode

from flows.graph import lawful
from tasks.document import at, load, shown
from tasks.package import parts, public
from tasks.params import PARAMS, read

KEY = "pipelines"
BY_HAND = "no block can be put in there as text; write the pipelines as lines below each other, or add it by hand"


def refuse_taken(name: str) -> None:
    """Raise `ValueError` where a pipeline has this name, or one whose models on the server would have the same."""
    for other in pipelines(read()):
        if other == name:
            raise ValueError(f"{at(f'{PARAMS}: {KEY}', name)}: there is such a pipeline; choose another name")
        if {*parts(name), *public(name)} & {*parts(other), *public(other)}:
            raise ValueError(
                f"{name} and {other} would have models of the same name on the server; choose another name"
            )


def pipelines(params: dict[str, Any]) -> dict[str, Any]:
    """Return the blocks there are; `ValueError` where they are no group."""
    found = params.get(KEY) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{PARAMS}: {KEY}: {BY_HAND}, got {shown(found)}")
    return found


def insert(name: str, block: str) -> None:
    """Put a pipeline's block behind the others in params.yaml; whatever is wrong with it leaves the file as it is.

    `block` is YAML text whose only key is `name`. The new file is read and checked as a run would, then renamed.
    """
    refuse_taken(name)
    before = PARAMS.read_bytes()
    wanted = read()
    wanted[KEY] = pipelines(wanted) | YAML(typ="safe").load(block)
    target = PARAMS.resolve()
    aside = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        aside.write_bytes(spliced(before.decode(), block).encode())
        shutil.copymode(target, aside)
        refuse_other(aside, wanted)
        lawful(name, wanted)
        if PARAMS.read_bytes() != before:
            raise ValueError(f"{PARAMS}: changed meanwhile; run the command again")
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def refuse_other(aside: Path, wanted: dict[str, Any]) -> None:
    """Raise `ValueError` where the new text says anything else than the old one and the block."""
    try:
        found = load(aside, "")
    except ValueError as error:
        raise ValueError(f"{PARAMS}: {str(error).removeprefix(f'{aside}: ')}") from None
    if found != wanted or list(found) != list(wanted):
        raise ValueError(f"{PARAMS}: {KEY}: {BY_HAND}")


def spliced(text: str, block: str) -> str:
    """Return the text with the block behind the last pipeline, indented as they are, a blank line before it."""
    end, indent = place(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = [f"{' ' * indent}{line}" if line.strip() else "" for line in block.rstrip("\n").split("\n")]
    lead = newline if text[:end] and not text[:end].endswith("\n") else ""
    return text[:end] + lead + newline + newline.join(lines) + newline + text[end:]


def place(text: str) -> tuple[int, int]:
    """Return where in the text the pipelines end, and by how many blanks their names are indented."""
    root = YAML(typ="safe", pure=True).compose(text)
    keys = [key.value for key, _ in root.value]
    if KEY not in keys:
        raise ValueError(f"{PARAMS}: {KEY}: missing; add it")
    number = keys.index(KEY)
    node = root.value[number][1]
    block = isinstance(node, MappingNode) and not node.flow_style
    if not block and node.value != "":
        raise ValueError(f"{PARAMS}: {KEY}: {BY_HAND}, got {shown(text[node.start_mark.index :].strip())}")
    indent = node.value[0][0].start_mark.column if block else 2
    if number + 1 == len(keys):
        return len(text), indent
    lines = text.splitlines(keepends=True)[: root.value[number + 1][0].start_mark.line]
    while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()  # what stands before the next key belongs to it
    return len("".join(lines)), indent
