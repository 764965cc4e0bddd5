"""doctor: what this machine and this checkout are fit for, and what to do where they are not."""

import json
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import groupby

import yaml

from flows import checkout, listeners, machine
from flows.finding import Finding
from flows.terminal import say, width

AREAS: dict[str, Callable[[], list[Finding]]] = {
    "versions": checkout.versions,
    "cpu": machine.cpu,
    "gpu": machine.gpu,
    "backends": machine.backends,
    "ports": listeners.ports,
    "servers": listeners.servers,
    "disk": checkout.disk,
}
NAME_WIDTH = 14  # longer names push their value to the right


def doctor(as_json: bool) -> int:
    """Print every finding, as text or as a JSON list; return 1 where there is a problem, else 0."""
    findings = examine()
    if as_json:
        say(json.dumps([asdict(each) for each in findings], indent=2, ensure_ascii=False))
    else:
        for line in report(findings):
            say(line)
    return int(any(each.state == "problem" for each in findings))


def examine() -> list[Finding]:
    """Return the findings of every area; an area that can't be examined is one problem, and the others go on."""
    return [finding for area in AREAS for finding in findings_of(area)]


def findings_of(area: str) -> list[Finding]:
    """Return the findings of one area, or what keeps it from being examined."""
    try:
        return AREAS[area]()
    except (ValueError, OSError, yaml.YAMLError) as error:
        return [Finding(area, area, "problem", f"not examined: {error}", "put that right, then run the doctor again")]


def report(findings: list[Finding]) -> Iterator[str]:
    """Give the lines that people read, grouped by area, and the sum at the end."""
    for area, group in groupby(findings, key=lambda each: each.area):
        members = list(group)
        yield area
        for finding, after in zip(members, [*members[1:], None], strict=True):
            shared = after is not None and (after.state, after.remedy) == (finding.state, finding.remedy)
            yield from entry(finding, with_remedy=not shared)
        yield ""
    problems, notes = (sum(each.state == state for each in findings) for state in ("problem", "note"))
    yield f"{problems or 'no'} problem{'s' * (problems != 1)}, {notes or 'no'} note{'s' * (notes != 1)}"


def entry(finding: Finding, with_remedy: bool) -> Iterator[str]:
    """Give a finding's lines; neighbours with one remedy say it once, below the last of them."""
    head = f"  {finding.state:<9}{finding.name:<{NAME_WIDTH}}  "
    indent = " " * (len("  ") + 9 + NAME_WIDTH + len("  "))
    yield from wrapped(finding.value, head, indent)
    if finding.remedy and with_remedy:
        yield from wrapped(finding.remedy, f"{indent}-> ", f"{indent}   ")


def wrapped(text: str, head: str, indent: str) -> list[str]:
    """Return a text as lines that fit the terminal."""
    return textwrap.wrap(text, width(), initial_indent=head, subsequent_indent=indent, break_on_hyphens=False)
