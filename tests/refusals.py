"""The verdict on a params.yaml that was spoilt: refused by name, or proven harmless; anything else is our failure."""

import json
import re
import shutil
import signal
import time
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from flows.graph import preview
from tests.knobs import BLOCK, unlawful
from tests.miniature import ROOT
from tests.mutations import NOTHING, Mutation

LONGEST, SECONDS = 400, 2
REMEDY = r"there are: |missing; add it|hould (be|have|match)|mend |save the file|take one out|give it|write |a name is "
REMEDY += "|it does for "


def verdict(mutation: Mutation, folder: Path) -> tuple[str, str]:
    """Return `refused` or `harmless` with the words or the proof; `AssertionError` says what the product did wrong.

    Run it in `folder`, where dvc.yaml is.
    """
    (folder / "params.yaml").write_bytes(mutation.text)
    if not (folder / "dvc.yaml").exists():
        shutil.copy(ROOT / "dvc.yaml", folder)
    started = time.monotonic()
    signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(SECONDS * 5)
    try:
        preview("fashion")
    except ValueError as error:
        assert type(error) is ValueError, f"{type(error).__name__}: {error}"
        assert time.monotonic() - started < SECONDS, "refused, but late"
        assert not (fault := unreadable(str(error), mutation)), f"{fault}: {error}"
        return "refused", str(error)
    finally:
        signal.alarm(0)
    assert mutation.may_be_harmless, "accepted"
    assert not (fault := harm(mutation.text)), f"accepted: {fault}"
    return "harmless", "equal, or a legal edit"


def too_slow(*_: Any) -> None:
    """End a check that hangs."""
    raise TimeoutError("it hangs")


def unreadable(sentence: str, mutation: Mutation) -> str | None:
    """Say what a refusal lacks."""
    place = r"params\.yaml: (line \d+: |backends|pipelines|.+: no such key)"
    named = mutation.key.encode("unicode_escape").decode() if not mutation.key.isprintable() else mutation.key
    if not re.match(place, sentence) and not (named and named in sentence and sentence.startswith("params.yaml: ")):
        return "it names neither key nor line"
    if named not in sentence:
        return f"it does not name {named}"
    if len(sentence) >= LONGEST or not sentence.isprintable():
        return f"no single sentence, {len(sentence)} characters"
    if not re.search(REMEDY, sentence):
        return "it gives no remedy"
    if mutation.value is not NOTHING and not any(form in sentence for form in forms(mutation.value)):
        return f"it does not show {mutation.value!r}"
    return None


def forms(value: Any) -> list[str]:
    """Return the ways in which a value may be shown, the beginning of it; of a group any member will do."""
    if isinstance(value, dict | list):
        return [repr(value)[:50], *value] if isinstance(value, dict) else [repr(value)[:50], *map(str, value)]
    return [str(value).lower() if isinstance(value, bool | date) else repr(value)[:50]]


def harm(text: bytes) -> str | None:
    """Say what makes a file other than a legal edit of the shipped one; None where it is one.

    It is read as DVC reads it, and each knob is held against its annotation and the type that it was shipped with.
    """
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text())
    found = YAML(typ="safe").load(text.decode().replace("\r\n", "\n").replace("\r", "\n"))
    if found == shipped and json.dumps(found) == json.dumps(shipped):
        return None
    old, new = (tree["pipelines"]["fashion"] for tree in (shipped, found))
    if list(found) != list(shipped) or list(found["pipelines"]) != list(shipped["pipelines"]) or set(old) != set(new):
        return "other keys"
    faults = [unlawful(shipped["backends"], found["backends"], ("backends",))]
    for section, knobs in old.items():
        if not isinstance(knobs, dict):
            faults.append(None if new[section] == knobs else f"{section}: {new[section]}")
        elif not set(new[section]) <= set(knobs) or (set(new[section]) != set(knobs) and section != "augment"):
            faults.append(f"{section}: other keys")
        else:
            faults += [unlawful(knobs[name], value, (*BLOCK, section, name)) for name, value in new[section].items()]
    faults.append(at_odds(new, found["backends"]))
    return next((fault for fault in faults if fault), None)


def at_odds(block: dict[str, Any], backends: list[str]) -> str | None:
    """Say which knobs of a block, each lawful, contradict each other or the backends chosen."""
    built = block["build"]["max_batch"]
    if max(*block["measure"]["batches"], block["package"]["max_batch_size"]) > built:
        return f"batches beyond {built}"
    if block["quantize"]["min_calibration"] > block["prepare"]["calibration"]:
        return "more calibration samples asked for than set aside"
    lacking = {"tensorrt", "tensorrt_rtx"} & set(backends) - set(block["build"]["options"])
    return f"no options of {lacking}" if lacking else None
