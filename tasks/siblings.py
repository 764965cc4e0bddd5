"""The other processes of a training on this machine: started with it, heard by it, ended with it."""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from tasks import guard, ranks
from tasks.ranks import Place

PERIOD_S = 0.5
GRACE_S = 10.0  # for a broken connection to be noticed by itself
FORESEEN = (ValueError, OSError, MemoryError)  # what tasks.command says in one line
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Sibling:
    """A process that does the same work at another place."""

    def __init__(self, place: Place, meeting: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self.place, self.said = place, ""
        self.ear, mouth = context.Pipe(duplex=False)
        self.process = context.Process(target=live, args=(mouth, place, meeting, work, arguments), daemon=True)
        self.process.start()
        mouth.close()

    def failure(self) -> str | None:
        """Say why it ended; None while it lives, where all is well, and where its own words are all there is."""
        while self.ear.poll():
            try:
                foreseen, words = self.ear.recv()
            except EOFError:
                break
            if foreseen:
                return str(words)
            print(words, file=sys.stderr, flush=True)
        if (self.process.exitcode or 0) >= 0:
            return None
        name = signal.Signals(-(self.process.exitcode or 0)).name
        return (
            f"process {self.place.rank} of the training was ended by {name}; the next run of the same knobs, data and "
            "code goes on at the last checkpoint"
        )


@contextmanager
def together(place: Place, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Iterator[None]:
    """Have this node's other processes do `work`, too; while the body runs all are one group, after it they are gone.

    Where one of them fails, `ValueError` says why. They write nothing, so they may end at any time.
    """
    if place.ranks == 1:
        yield
        return
    over = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        if place.nodes > 1:
            meeting = f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        others = [replace(place, local=local) for local in range(1, place.devices)]
        siblings = [Sibling(each, meeting, work, arguments) for each in others]
        threading.Thread(target=watch, args=(siblings, over), daemon=True).start()
        try:
            with ranks.group(place, meeting):
                yield
        except FORESEEN:
            raise
        except Exception as error:
            raise reason(siblings, error) from error
        finally:
            over.set()
            for each in siblings:
                each.process.kill()
                each.process.join()


def reason(siblings: list[Sibling], error: Exception) -> Exception:
    """Return why the group broke, as the sibling that failed said it; the error itself where none did."""
    for each in siblings:
        each.process.join(GRACE_S / len(siblings))
    return next((ValueError(words) for each in siblings if (words := each.failure())), error)


def watch(siblings: list[Sibling], over: threading.Event) -> None:
    """End this process where a sibling failed and nobody noticed: one who waits for it may wait for ever."""
    while not any(each.process.exitcode for each in siblings):
        if over.wait(PERIOD_S):
            return
    if over.wait(GRACE_S):
        return
    words = [each.failure() for each in siblings]
    print(f"error: {next((each for each in words if each), 'a process of the training failed')}", file=sys.stderr)
    for each in siblings:
        each.process.kill()
    sys.stderr.flush()
    os._exit(1)


def live(mouth: Connection, place: Place, meeting: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Do the work, silently, as long as the first process lives; it alone heeds signals, and says what went wrong."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # Lightning sets handlers of its own
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        with ranks.group(place, meeting):
            work(place, *arguments)
    except FORESEEN as error:
        mouth.send((True, guard.sentence(error)))
        sys.exit(1)
    except Exception:
        mouth.send((False, traceback.format_exc()))
        sys.exit(1)


def end_with_parent() -> None:
    """End this process once the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
