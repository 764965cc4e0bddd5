"""Ways to spoil params.yaml: on its text, as an editor or a disk would, and on its tree, as people would."""

import copy
import datetime
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from tests.knobs import outside

Path = tuple[str | int, ...]
NOTHING = object()
RAW = "RAWTEXT"  # stands in a tree for text that no dumper would write
BLOCK = ("pipelines", "fashion")
DATA = (*BLOCK, "fetch", "files")  # its keys are names of files: any will do
GROUPS = ("modality", "problem", "model")
OPTIONS = (*BLOCK, "build", "options")
UNUSED = (*OPTIONS, "tensorrt")  # of a backend that is not chosen


@dataclass(frozen=True)
class Mutation:
    """A params.yaml with one thing done to it."""

    text: bytes
    kind: str
    what: str
    key: str = ""  # what a refusal has to name beside the file: a key, or a line; any key or line where empty
    value: Any = NOTHING  # what a refusal has to show
    may_be_harmless: bool = False


def mutate(text: str, seed: int) -> Mutation:
    """Return the mutation of a number; the first numbers run through all kinds, later ones through those that vary."""
    names = list(KINDS) if seed < len(KINDS) else [name for name in KINDS if name not in SINGLE]
    kind = names[seed % len(names)]
    found = KINDS[kind](text, random.Random(seed))
    return Mutation(**{"kind": kind, **found})


# What stands in the tree.


def paths(value: Any, path: Path = ()) -> list[Path]:
    """Return every place of a tree, outermost first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [below for key, each in items for below in paths(each, (*path, key))]


def get(tree: Any, path: Path) -> Any:
    """Return what stands at a place."""
    for key in path:
        tree = tree[key]
    return tree


def numbers(tree: Any) -> list[Path]:
    """Return the places of numbers."""
    return [path for path in paths(tree) if isinstance(get(tree, path), int | float) and path not in switches(tree)]


def switches(tree: Any) -> list[Path]:
    """Return the places of `true` and `false`."""
    return [path for path in paths(tree) if isinstance(get(tree, path), bool)]


def keys(tree: Any) -> list[Path]:
    """Return the places of keys that are not data."""
    return [path for path in paths(tree) if isinstance(path[-1], str) and path[:-1] != DATA]


def name(path: Path) -> str:
    """Return the key that a place goes by."""
    return str([key for key in path if isinstance(key, str)][-1])


def written(tree: Any, raw: str = RAW) -> bytes:
    """Return a tree as YAML, `RAW` in it replaced."""
    return yaml.safe_dump(tree, sort_keys=False, width=200, allow_unicode=True).replace(RAW, raw).encode()


def put(text: str, path: Path, new: Any, raw: str | None = None, **facts: Any) -> dict[str, Any]:
    """Return the mutation that puts something else in one place."""
    tree = yaml.safe_load(text)
    get(tree, path[:-1])[path[-1]] = new
    what = f"{'.'.join(map(str, path))} = {repr(new) if raw is None else raw}"
    shown = new if raw is None else NOTHING
    return {"text": written(tree, raw or ""), "what": what, "key": name(path), "value": shown} | facts


def rekeyed(text: str, path: Path, change: Callable[[str, Any], dict[str, Any]]) -> Any:
    """Return the tree with one key and its value replaced by others."""
    tree = yaml.safe_load(text)
    parent = get(tree, path[:-1])
    items = list(parent.items())
    parent.clear()
    for key, value in items:
        parent |= change(key, value) if key == path[-1] else {key: value}
    return tree


# What people do.


def misspelt(text: str, rng: random.Random) -> dict[str, Any]:
    path = rng.choice(keys(yaml.safe_load(text)))
    old, i = str(path[-1]), rng.randrange(len(str(path[-1])))
    new = rng.choice([old[:i] + old[i + 1 :], old[:i] + old[i] * 2 + old[i + 1 :], old + "s", old.upper(), f"{old} "])
    tree = rekeyed(text, path, lambda key, value: {new: value})
    return {"text": written(tree), "what": f"{'.'.join(map(str, path))} as {new}", "key": new}


def missing(text: str, rng: random.Random) -> dict[str, Any]:
    path = rng.choice(keys(yaml.safe_load(text)))
    tree = rekeyed(text, path, lambda key, value: {})
    optional = path[:-1] == (*BLOCK, "augment") or path == UNUSED
    return {"text": written(tree), "what": ".".join(map(str, path)), "key": name(path), "may_be_harmless": optional}


def doubled(text: str, rng: random.Random) -> dict[str, Any]:
    path = rng.choice(keys(yaml.safe_load(text)))
    other = rng.choice([RAW, f"{RAW}: 1"])
    tree = rekeyed(text, path, lambda key, value: {key: value, RAW: copy.deepcopy(value) if other == RAW else 1})
    return {"text": written(tree, name(path)), "what": ".".join(map(str, path)), "key": name(path)}


def wrong_type(text: str, rng: random.Random) -> dict[str, Any]:
    tree = yaml.safe_load(text)
    path = rng.choice(paths(tree))
    old = get(tree, path)
    others: list[Any] = [[[]], {"a": {}}, True, False]
    if isinstance(old, dict | list):
        others += [
            5,
            "text",
            "",
            {"a": 1} if isinstance(old, list) else [1],
            *(old[:1] if isinstance(old, list) else []),
        ]
    elif isinstance(old, str):
        others += [5, 0.5, [old], {old: 1}]
    elif isinstance(old, bool):
        others += [0, 1, "yes", str(old).lower(), "", [old]]
    else:
        others += [str(old), "many", "", [old], {"value": old}, *([] if isinstance(old, float) else [old + 0.5])]
        others += [] if isinstance(old, float) or path[-2] == "range" else [float(old)]
    return put(text, path, rng.choice([each for each in others if each is not old]))


TRAPS = ["yes", "no", "on", "off", "y", "1e-4", "1e3", "010", "08", "0x10", "0o17", "0b11", "1_000", "1,000", "1:30"]
TRAPS += [".5", "5.", "+1", "0", "-0", "TRUE", "~", "=", "<<"]


def trap(text: str, rng: random.Random) -> dict[str, Any]:
    tree = yaml.safe_load(text)
    path = rng.choice([*numbers(tree), *switches(tree), (*BLOCK, "fetch", "sources", "debian")])
    raw = rng.choice(TRAPS)
    found = put(text, path, RAW, raw, may_be_harmless=True, key="")
    if rng.random() < 0.2:
        found |= {"text": b"%YAML 1.1\n---\n" + found["text"], "what": f"{found['what']} in YAML 1.1"}
    return found


def not_finite(text: str, rng: random.Random) -> dict[str, Any]:
    raw = rng.choice([".nan", ".inf", "-.inf", ".NaN", "1e999", "-1e999", "9" * 400, "9" * 5000])
    return put(text, rng.choice(numbers(yaml.safe_load(text))), RAW, raw, key="" if len(raw) > 4000 else "number")


def date(text: str, rng: random.Random) -> dict[str, Any]:
    day = datetime.date(2020, 1, 1) + datetime.timedelta(rng.randrange(1000))
    return put(text, rng.choice(paths(yaml.safe_load(text))), day)


def impossible_date(text: str, rng: random.Random) -> dict[str, Any]:
    return put(text, rng.choice(paths(yaml.safe_load(text))), RAW, f"2020-{rng.randrange(13, 99)}-01", key="line")


def null(text: str, rng: random.Random) -> dict[str, Any]:
    return put(text, rng.choice(paths(yaml.safe_load(text))), RAW, rng.choice(["null", "~", ""]))


def nested(text: str, rng: random.Random) -> dict[str, Any]:
    depth = rng.choice([21, 50, 300, 3000, 60_000])
    raw = rng.choice(["[" * depth + "]" * depth, "{a: " * depth + "}" * depth, "[" * depth])
    return put(text, rng.choice(paths(yaml.safe_load(text))), RAW, raw, key="line", what=f"{depth} deep")


def out_of_range(text: str, rng: random.Random) -> dict[str, Any]:
    path = rng.choice(numbers(yaml.safe_load(text)))
    return put(text, path, rng.choice(outside(path)))


def odd_number(text: str, rng: random.Random) -> dict[str, Any]:
    value = rng.choice([0, -1, 1.0000001, 2, 0.5, -0.0, 65_537])
    return put(text, rng.choice(numbers(yaml.safe_load(text))), value, may_be_harmless=True)


def extreme_number(text: str, rng: random.Random) -> dict[str, Any]:
    value = rng.choice([1e308, -1e308, 10**30, -(10**30), 2**63, 2**64])
    return put(text, rng.choice(numbers(yaml.safe_load(text))), value)


def unknown_choice(text: str, rng: random.Random) -> dict[str, Any]:
    places = [
        ("train", "precision"),
        ("select", "objective"),
        ("quantize", "precisions", 0),
        ("quantize", "precisions", 1),
        ("build", "options", "tensorrt", "hardware_compatibility"),
    ]
    places += [("prepare", "input", "normalisation"), ("prepare", "input", "channels")]
    path = (*BLOCK, *rng.choice(places))
    old = get(yaml.safe_load(text), path)
    return put(
        text, path, rng.choice([str(old).upper() + "x", f"{old} ", f"{old}s", "", "int4", str(old).title() + "!"])
    )


LISTS = [("backends",), (*BLOCK, "prepare", "classes"), (*BLOCK, "quantize", "precisions")]
LISTS += [(*BLOCK, "measure", "batches")]


def doubled_entry(text: str, rng: random.Random) -> dict[str, Any]:
    path = rng.choice(LISTS)
    old = get(yaml.safe_load(text), path)
    twice = list(old)
    twice.insert(rng.randrange(len(old) + 1), rng.choice(old))
    return put(text, path, twice, value=next(each for i, each in enumerate(twice) if each in twice[:i]))


def empty(text: str, rng: random.Random) -> dict[str, Any]:
    tree = yaml.safe_load(text)
    path = rng.choice([path for path in paths(tree) if isinstance(get(tree, path), dict | list) and get(tree, path)])
    optional = path == (*BLOCK, "augment")
    group = isinstance(get(tree, path), dict)  # then a key is missing in it
    return put(text, path, {} if group else [], may_be_harmless=optional, value=NOTHING if group else [])


def class_name(text: str, rng: random.Random) -> dict[str, Any]:
    names = [
        "",
        " ",
        "T/shirt",
        "..",
        ".",
        ".hidden",
        "a\0b",
        "a\nb",
        "x" * 300,
        "é" * 300,
        " Bag",
        "Bag ",
        "a\\b",
        "a\tb",
    ]
    return put(text, (*BLOCK, "prepare", "classes", rng.randrange(10)), rng.choice(names))


def unknown_name(text: str, rng: random.Random) -> dict[str, Any]:
    others = {
        ("backends", 0): ["onnxrt", "OnnxRuntime", "../onnxruntime", "", "onnxruntime ", "__init__", "a\nb", "x" * 300],
        (*BLOCK, "modality"): ["sound", "Image", "../image", "image.source", "", "__pycache__", "im\nage", "a" * 300],
        (*BLOCK, "problem"): ["regression", "Classification", "..", "", "x" * 300],
        (*BLOCK, "model"): ["pretrained", "Train", "train ", "", "prepare", "trained"],
    }
    path = rng.choice(list(others))
    return put(text, path, rng.choice(others[path]))


def pipeline_name(text: str, rng: random.Random) -> dict[str, Any]:
    bad = [
        "Fashion",
        "1abc",
        "a-b",
        "",
        "mode.",
        "a.b",
        "fäshion",
        "衣",
        "x" * 300,
        "a b",
        "_a",
        "a/b",
        "a\nb",
        "..",
        "a'b",
    ]
    new = rng.choice([*bad, "shoes", "fashions"])
    beside = new in bad and rng.random() < 0.5
    own = {"fashion": {}} if beside else {}
    tree = rekeyed(text, BLOCK, lambda key, value: {key: value for key in own} | {new: copy.deepcopy(value)})
    return {"text": written(tree), "what": f"{new!r} {'beside' if beside else 'in place of'} fashion", "key": new[:30]}


def beyond_another(text: str, rng: random.Random) -> dict[str, Any]:
    block = get(yaml.safe_load(text), BLOCK)
    built, batches, calibrated = (
        block["build"]["max_batch"],
        block["measure"]["batches"],
        block["prepare"]["calibration"],
    )
    return rng.choice(
        [
            lambda: put(text, (*BLOCK, "package", "max_batch_size"), rng.randrange(built + 1, 1025)),
            lambda: put(text, (*BLOCK, "build", "max_batch"), rng.randrange(1, max(batches)), value=max(batches)),
            lambda: put(
                text,
                (*BLOCK, "measure", "batches", rng.randrange(len(batches))),
                rng.randrange(built + 1, 4097),
                key="batches",
            ),
            lambda: put(text, (*BLOCK, "quantize", "min_calibration"), rng.randrange(calibrated + 1, 100_000)),
            lambda: put(
                text,
                (*BLOCK, "prepare", "calibration"),
                rng.randrange(1, block["quantize"]["min_calibration"]),
                value=block["quantize"]["min_calibration"],
            ),
        ]
    )()


def build_option(text: str, rng: random.Random) -> dict[str, Any]:
    capabilities, other = (*OPTIONS, "tensorrt_rtx", "compute_capabilities"), (*OPTIONS, "tensorrt")
    values: list[tuple[Path, Any]] = [
        *((OPTIONS, each) for each in ([], "tensorrt_rtx", None, True)),
        *(((*OPTIONS, name), {}) for name in ("onnxruntime", "openvino", "tensorrtx", "TensorRT", "")),
        *(((*OPTIONS, "tensorrt_rtx"), each) for each in (None, [], 80, [80, 86], "8.6")),
        *((capabilities, each) for each in (86, "86", "all", None, True, {"86": 1})),
        *((capabilities, [each]) for each in (8.6, "8.6", 86.0, True, None, [86], 0, -86, 87, 90, 10**30)),
        *(((*OPTIONS, "tensorrt_rtx", each), 1024) for each in ("workspace_mb", "compute_capability", "refit")),
        *(((*other, "workspace_mb"), each) for each in (0, -1, 1.5, 1024.0, "1 GB", "1024", None, [1024], 2_000_000)),
        *(((*other, "version_compatible"), each) for each in (1, 0, "yes", "true", None, [True])),
        *(((*other, "hardware_compatibility"), each) for each in ("None", "ampere", "", None, 8.0, True, ["none"])),
        *(((*other, each), False) for each in ("hardware_compatible", "strongly_typed")),
    ]
    form = rng.randrange(8)
    if form == 0:
        twice = rng.choice([75, 80, 86, 89, 120, 121])
        return put(text, capabilities, [twice, 80, 86, twice], value=twice if twice not in (80, 86) else NOTHING)
    if form == 1:  # chosen, and nothing said of it
        tree = yaml.safe_load(text)
        chosen = rng.choice(["tensorrt", "tensorrt_rtx"])
        tree["backends"] = rng.choice([["onnxruntime", chosen], [chosen]])
        del get(tree, OPTIONS)[chosen]
        return {"text": written(tree), "what": f"{chosen} without options", "key": f"build.options.{chosen}"}
    path, value = rng.choice(values)
    stranger = path[-1] not in get(yaml.safe_load(text), path[:-1])
    shown = NOTHING if value in (None, [None]) or stranger else value
    return put(text, path, value, value=shown[0] if isinstance(shown, list) and shown else shown)


def odd_key(text: str, rng: random.Random) -> dict[str, Any]:
    path = rng.choice([path for path in keys(yaml.safe_load(text)) if path != ("backends",)])
    raw = rng.choice(["1", "null", "true", "1.5", "2020-01-01", "[a, b]", "~", "''", "&x y", "0x10", "'a\\nb'"])
    tree = rekeyed(text, path, lambda key, value: {key: value, RAW: 1})
    return {"text": written(tree, raw), "what": f"{raw}: 1", "key": name(path[:-1]) if path[:-1] else ""}


# What editors, disks and attackers do.


def lines_of(text: str) -> tuple[list[str], list[int]]:
    """Return the lines, and which of them hold a key."""
    lines = text.split("\n")
    return lines, [i for i, line in enumerate(lines) if re.match(r" *[\w-]+:", line)]


def relined(
    text: str, rng: random.Random, change: Callable[[str], str], like: str = "", **facts: Any
) -> dict[str, Any]:
    """Return the mutation that changes one of the lines that hold a key and match a pattern."""
    lines, places = lines_of(text)
    i = rng.choice([i for i in places if re.search(like, lines[i])])
    lines[i] = change(lines[i])
    return {"text": "\n".join(lines).encode(), "what": f"line {i + 1}: {lines[i].strip(' ')[:30]!r}"} | facts


def tab(text: str, rng: random.Random) -> dict[str, Any]:
    found = relined(text, rng, lambda line: "\t" * rng.randrange(1, 3) + line.lstrip(), "^ ")
    return found | {"key": found["what"].split(":")[0]}


def lost_colon(text: str, rng: random.Random) -> dict[str, Any]:
    return relined(text, rng, lambda line: line.replace(":", rng.choice(["", ";", "="]), 1))


def lost_quote(text: str, rng: random.Random) -> dict[str, Any]:
    mark = rng.choice("'\"")
    return relined(text, rng, lambda line: re.sub(r"^( *[\w-]+: *)", rf"\1{mark}", line), r"^ *[\w-]+: *[^ #]")


def indentation(text: str, rng: random.Random) -> dict[str, Any]:
    return relined(text, rng, lambda line: " " * rng.randrange(12) + line.lstrip(), may_be_harmless=True)


def bracket(text: str, rng: random.Random) -> dict[str, Any]:
    mark = rng.choice("[]{}")
    if rng.random() < 0.5:
        return relined(text, rng, lambda line: line.replace(mark, "", 1), rf"^[^#]*{re.escape(mark)}")
    return relined(text, rng, lambda line: re.sub(r": *", f": {mark}", line, count=1))


def truncated(text: str, rng: random.Random) -> dict[str, Any]:
    end = rng.randrange(1, len(text.encode()))
    left = text.encode()[:end]
    key = "" if any(line and not line.startswith(b"#") for line in left.splitlines()) else "backends"
    return {"text": left, "what": f"after {end} bytes", "key": key, "may_be_harmless": True}


def flipped(text: str, rng: random.Random) -> dict[str, Any]:
    content, i = bytearray(text.encode()), rng.randrange(len(text.encode()))
    content[i] = rng.choice([content[i] ^ 1 << rng.randrange(8), rng.randrange(256)])
    return {"text": bytes(content), "what": f"byte {i} is 0x{content[i]:02x}", "may_be_harmless": True}


def deleted(text: str, rng: random.Random) -> dict[str, Any]:
    content, i = text.encode(), rng.randrange(len(text.encode()))
    return {"text": content[:i] + content[i + 1 :], "what": f"byte {i}", "may_be_harmless": True}


def inserted(text: str, rng: random.Random, byte: bytes) -> dict[str, Any]:
    content, i = text.encode(), rng.randrange(len(text.encode()))
    key = f"line {content.count(10, 0, i) + 1}:"
    return {"text": content[:i] + byte + content[i:], "what": f"before byte {i}", "key": key}


def sentinel(text: str, rng: random.Random, raws: list[str]) -> dict[str, Any]:
    """Return the mutation that puts raw text in the place of some value; the refusal names its line or its key."""
    raw = rng.choice(raws)
    return put(text, rng.choice(paths(yaml.safe_load(text))), RAW, raw, key="")


ALIASES = ["*x", "*fashion", "[*x]", "{a: *x}"]
TAGS = [
    "!!python/object:os.system {}",
    '!!python/object/apply:os.system ["true"]',
    "!foo bar",
    "!!set {a}",
    "!!binary aGk=",
]
TAGS += [
    "!!int x",
    "!!float x",
    "!!bool maybe",
    "!!timestamp x",
    "!!python/name:os.system",
    "!!pairs [a: 1]",
    "!!str [a]",
]


def second_document(text: str, rng: random.Random) -> dict[str, Any]:
    lines, places = lines_of(text)
    i = rng.choice([*places[1:], len(lines)])
    return {
        "text": "\n".join([*lines[:i], "---", *(lines[i:] or ["a: 1"])]).encode(),
        "what": f"at line {i + 1}",
        "key": "line",
    }


def bomb(text: str, rng: random.Random) -> dict[str, Any]:
    levels, width, place = rng.randrange(8, 12), rng.randrange(6, 10), rng.choice(["x", "backends", "pipelines"])
    kind = rng.choice(["lists", "merged", "endless", "endless merge"])
    if kind.startswith("endless"):
        bomb = "&a [*a]" if kind == "endless" else "&a {<<: [*a, *a], b: 1}"
        return {"text": f"{text}\n{place}2: {bomb}\n".encode(), "what": kind, "key": "line"}
    head = "l0: &l0 {" + ", ".join(f"x{i}: 1" for i in range(width)) + "}"
    each = "l{1}: &l{1} [{0}]" if kind == "lists" else "l{1}: &l{1} {{<<: [{0}], y{1}: 1}}"
    rows = [each.format(", ".join([f"*l{i}"] * width), i + 1) for i in range(levels)]
    return {"text": "\n".join([head, *rows, text]).encode(), "what": f"{kind}, {width}^{levels}", "key": "line"}


KINDS: dict[str, Callable[[str, random.Random], dict[str, Any]]] = {
    "misspelt key": misspelt,
    "missing key": missing,
    "doubled key": doubled,
    "key that is no text": odd_key,
    "wrong type": wrong_type,
    "YAML 1.1 trap": trap,
    "not a finite number": not_finite,
    "date": date,
    "impossible date": impossible_date,
    "null": null,
    "very deep nesting": nested,
    "just out of range": out_of_range,
    "odd number": odd_number,
    "extreme number": extreme_number,
    "unknown choice": unknown_choice,
    "doubled entry": doubled_entry,
    "empty list or group": empty,
    "bad class name": class_name,
    "unknown name": unknown_name,
    "bad pipeline name": pipeline_name,
    "beyond another knob": beyond_another,
    "bad build option": build_option,
    "tab as indentation": tab,
    "lost colon": lost_colon,
    "lost quote": lost_quote,
    "broken indentation": indentation,
    "bracket lost or added": bracket,
    "truncated": truncated,
    "byte flipped": flipped,
    "byte deleted": deleted,
    "latin-1 byte": lambda text, rng: inserted(text, rng, "é".encode("latin-1")),
    "NUL byte": lambda text, rng: inserted(text, rng, b"\0"),
    "undefined alias": lambda text, rng: sentinel(text, rng, ALIASES),
    "foreign tag": lambda text, rng: sentinel(text, rng, TAGS),
    "second document": second_document,
    "alias bomb": bomb,
    "byte order mark": lambda text, rng: {"text": text.encode("utf-8-sig"), "what": "UTF-8", "may_be_harmless": True},
    "CRLF": lambda text, rng: {"text": text.replace("\n", "\r\n").encode(), "what": "all", "may_be_harmless": True},
    "CR": lambda text, rng: {"text": text.replace("\n", "\r").encode(), "what": "all", "may_be_harmless": True},
    "UTF-16": lambda text, rng: {"text": text.encode("utf-16"), "what": "with its mark", "key": "line 1"},
    "UTF-16 without mark": lambda text, rng: {"text": text.encode("utf-16-le"), "what": "bare", "key": "line 1"},
    "empty file": lambda text, rng: {"text": b"", "what": "0 bytes", "key": "backends"},
    "only a comment": lambda text, rng: {"text": b"# nothing\n", "what": "one line", "key": "backends"},
    "list at top level": lambda text, rng: {"text": b"- backends\n- pipelines\n", "what": "two", "key": "backends"},
    "text at top level": lambda text, rng: {"text": b"backends\n", "what": "one word", "key": "backends"},
}
SINGLE = list(KINDS)[-9:]  # there is but one of each
