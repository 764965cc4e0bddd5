"""lint: print what is wrong with Triton model repositories."""

from pathlib import Path

from flows import terminal
from tasks.lint import lint as complaints

REFUSED = 3


def lint(paths: list[Path]) -> int:
    """Print what is wrong with model repositories; a config.pbtxt stands for the repository it is in."""
    found = []
    for repository in dict.fromkeys(path.parents[1] if path.name == "config.pbtxt" else path for path in paths):
        found += [f"{repository}: {each}" for each in complaints(repository)]
    for line in found:
        terminal.paragraph(line)
    return REFUSED if found else 0
