"""check: whether this machine, or another that a file describes, can load engines; it loads and writes nothing."""

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from flows.doctor import wrapped
from flows.terminal import say, width
from tasks import backends, passport, target
from tasks.document import shown

REFUSED = 3
MARGIN = 12  # columns in front of what a line says
Version = Annotated[str, Field(pattern=r"^\d+\.\d+")]


class Gpu(BaseModel):
    """What a target's GPU has to say."""

    name: str
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d+$")]
    driver_cuda: Version


class Target(BaseModel):
    """What a target has to say; it may say more."""

    cpu: str
    architecture: str
    instruction_sets: list[str]
    gpu: Gpu | None
    versions: dict[str, Version | None]


@dataclass(frozen=True)
class Checked:
    """An engine, what its passport says (None where it has no whole one), and whether it can be loaded."""

    path: Path
    facts: dict[str, Any] | None
    verdict: passport.Verdict


def check(engine: Path, on: Path | None, as_json: bool, runtimes: Path | None = None) -> int:
    """Print the verdict on an engine, or on each of a folder of the build stage; return 0 where all load, else 3.

    `runtimes` is a file with the versions that count in the place of the machine's: those of another container on it.
    """
    machine = described(on) if on else target.target()
    machine |= {"versions": versions(runtimes)} if runtimes else {}
    found = [examined(path, machine) for path in engines(engine)]
    if as_json:
        say(json.dumps([summary(each) for each in found], indent=2, ensure_ascii=False))
    else:
        say("\n\n".join("\n".join(block(each)) for each in found))
    return 0 if all(each.verdict.answer == "load" for each in found) else REFUSED


def show_target() -> int:
    """Print this machine as `check --on` takes it."""
    say(json.dumps(target.target(), indent=2, ensure_ascii=False))
    return 0


def described(path: Path) -> dict[str, Any]:
    """Read a machine's facts; `ValueError` names the key that is wrong and how to make the file anew."""
    remedy = f"make it anew on that machine: engineworks target > {path.name}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        TypeAdapter(Target).validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise ValueError(f"{path}: {key}: missing; {remedy}") from None
        where = f"{path}: {key}" if key else str(path)
        raise ValueError(f"{where}: {first['msg']}, got {shown(first['input'])}; {remedy}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: no JSON; {remedy}") from None
    return dict(content)


def versions(path: Path) -> dict[str, str | None]:
    """Read versions of runtimes by backend; `ValueError` where there are none."""
    try:
        return TypeAdapter(dict[str, Version | None]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: no versions of runtimes: {error.errors()[0]['msg']}") from None


def engines(path: Path) -> list[Path]:
    """Return the engines that a path means: itself, or those of a folder of one backend or of several."""
    if not path.is_dir():
        return [path]
    folders = [each for each in (path, *(path / name for name in backends.names())) if (each / "build.json").exists()]
    found = [engine for folder in folders for engine in listed(folder / "build.json")]
    if not found:
        raise ValueError(f"{path}: no engines here; give an engine, or a folder such as models/build/fashion")
    return found


def listed(account: Path) -> list[Path]:
    """Return the engines that a build.json lists."""
    try:
        return [account.with_name(file) for file in json.loads(account.read_text())["engines"].values()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{account}: no list of engines; run the build stage again") from None


def examined(engine: Path, machine: dict[str, Any]) -> Checked:
    """Check one engine."""
    verdict = passport.check(engine, machine)
    try:
        facts = passport.read(engine)
    except ValueError:
        facts = None
    return Checked(engine, facts, verdict)


def summary(each: Checked) -> dict[str, Any]:
    """Return a verdict for programs."""
    kept = ("engine", "pipeline", "backend", "precision", "runs_on", "built")
    facts = {name: each.facts[name] if each.facts else None for name in kept}
    return {"path": str(each.path), "size_bytes": each.path.stat().st_size, **facts, **asdict(each.verdict)}


def block(each: Checked) -> Iterator[str]:
    """Give the lines on one engine: what it is, the verdict, the reasons, and the command that helps."""
    size = f"{each.path.stat().st_size / 1e6:.2f} MB"
    yield from wrapped(str(each.path), "", "  ")
    if each.facts:
        built = each.facts["built"]
        maker = (built["on"]["gpu"] or {}).get("name") or built["on"]["cpu"]
        yield from entry("engine", f"{each.facts['engine']}, {each.facts['precision'].upper()}, {size}")
        yield from entry("built", f"{built['at']} in {built['seconds']:.1f} s, on {maker}")
        yield from entry("runs on", each.facts["runs_on"])
    else:
        yield from entry("engine", size)
    first, *others = each.verdict.reasons or [""]
    yield from entry(each.verdict.answer, first)
    for reason in others:
        yield from entry("", reason)
    if each.verdict.command:
        yield "  on the target, in a checkout of this:"
        yield from command(each.verdict.command)


def entry(name: str, value: str) -> list[str]:
    """Return a named value as lines that fit the terminal."""
    return wrapped(value, f"  {name:<{MARGIN - 2}}", " " * MARGIN) or [f"  {name}"]


def command(line: str) -> list[str]:
    """Return a command that can be copied: broken between words, a backslash at the end of each line but the last."""
    *broken, last = textwrap.wrap(
        line,
        width() - len(" \\"),
        initial_indent="    ",
        subsequent_indent="      ",
        break_on_hyphens=False,
        break_long_words=False,
    )
    return [*(f"{part} \\" for part in broken), last]
