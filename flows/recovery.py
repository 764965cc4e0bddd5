"""The end of a deploy: settled, or all put back; also of one that was killed."""

from typing import Any

from tritonclient.utils import InferenceServerException

from flows import journal, live, receipt, repository
from flows.terminal import say


def settle(clients: list[Any], pipeline: str, version: int, previous: int) -> None:
    """End a deploy: the version before stays loaded for its grace time (retirement.py) and on disk, older ones go."""
    retire(clients, pipeline, repository.versions(pipeline) - {previous, version})
    journal.close(pipeline)


def conclude(clients: list[Any], pipeline: str, version: int, previous: int) -> None:
    """Settle a deploy whose receipt is written: where a replica dies now, the supervisor ends it."""
    try:
        settle(clients, pipeline, version, previous)
    except InferenceServerException as error:
        say(f"version {version} of {pipeline} is live; a replica is not up ({error.message()}): it follows by itself")


def restore(clients: list[Any], pipeline: str, before: repository.Files, version: int, known: bool = False) -> None:
    """Answer clients by the version that was live, or not at all where there was none, and take the other one away.

    The files of one that is `known`, live once, stay.
    """
    repository.point_back(pipeline, before, version)
    for client in clients:
        for path, text in before.items():
            bring = live.unload if text is None else live.load
            bring(client, path.parent.name)
    if known:
        unload(clients, pipeline, version)
    else:
        retire(clients, pipeline, {version})
    journal.close(pipeline)


def recover(clients: list[Any], pipeline: str) -> str | None:
    """Finish or undo a deploy that was killed; return what was done, None where there was none.

    The receipt decides: where it names the coming version, that one is live; else all goes back.
    """
    begun = journal.entry(pipeline)
    if begun is None:
        return None
    left = receipt.read(pipeline)
    if left is not None and left["version"] == begun["version"]:
        settle(clients, pipeline, begun["version"], receipt.previous_version(pipeline))
        return f"finished a deploy of {pipeline} that was killed: version {begun['version']} is live"
    restore(clients, pipeline, begun["before"], begun["version"], begun["known"])
    return f"undid a deploy of {pipeline} that was killed: version {repository.live_version(pipeline)} serves on"


def retire(clients: list[Any], pipeline: str, versions: set[int]) -> None:
    """Take versions off the servers and off the disk."""
    for version in versions:
        unload(clients, pipeline, version)
        repository.remove(pipeline, version)


def unload(clients: list[Any], pipeline: str, version: int) -> None:
    """Take a version off the servers."""
    live.everywhere(live.unload, clients, repository.names(pipeline, version))
