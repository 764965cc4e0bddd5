"""A pipeline's block as YAML text that reads well: texts in quotes where need be, comments in one column."""

import json
import re
from pathlib import Path

COLUMN, WIDTH = 38, 116  # where comments begin, and where lines end, within the block
PLAIN = r"[A-Za-z][A-Za-z0-9 _-]*|[/A-Za-z][A-Za-z0-9_./-]*"
WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"}  # which YAML takes for others


def aligned(line: str) -> str:
    """Return a line with its comment, which a tab tells from the rest, in the column of comments."""
    code, _, comment = line.partition("\t")
    return f"{code:<{COLUMN}}  # {comment}" if comment else code


def scalar(value: str | Path) -> str:
    """Return a text as YAML, in quotes where it might be taken for something else."""
    text = str(value)
    plain = re.fullmatch(PLAIN, text) and text.lower() not in WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)


def listed(key: str, values: list[str]) -> str:
    """Return a list as YAML, in as many lines as it takes."""
    lines = [f"    {key}: ["]
    for number, value in enumerate(values):
        piece = scalar(value) + ("]" if number + 1 == len(values) else ",")
        if len(lines[-1]) + len(piece) < WIDTH:
            lines[-1] += ("" if lines[-1].endswith("[") else " ") + piece
        else:
            lines.append(f"      {piece}")
    return "\n".join(lines)
