"""A live model's process that dies takes its server along at once: the door asks the others, and no client hears of it.

Left alive, the server answers every request for that model with an error, which over gRPC nginx does not ask again.
"""

import contextlib
import os
import re
import select
import threading
import time
from collections.abc import Callable, Iterator

import psutil

from flows import receipt, repository, services
from flows.patient import listening
from flows.replicas import Replica

LOOK_S = 0.5  # between two looks for new processes
MODEL = re.compile(r"/models/([^/ ]+)/")  # in the command line of a process that runs a model


class Sentinel(threading.Thread):
    """Watches the processes that run models, of two replicas or more: a lone one is healed by loading anew."""

    def __init__(self, every: list[Replica], say: Callable[[str], None]) -> None:
        """Say what happens by way of `say`."""
        super().__init__(daemon=True)
        self.every, self.say = every, say

    def run(self) -> None:
        """Watch until the supervisor ends."""
        while len(self.every) > 1:
            with contextlib.ExitStack() as stack, contextlib.suppress(psutil.NoSuchProcess, OSError, ValueError):
                watched, poll = dict[int, tuple[str, psutil.Process]](), select.poll()
                for model, process, server in models(self.every):
                    handle = os.pidfd_open(process.pid)
                    stack.callback(os.close, handle)
                    watched[handle] = model, server
                    poll.register(handle, select.POLLIN)
                for handle, _ in poll.poll(1000 * LOOK_S) if watched else ():
                    model, server = watched[handle]
                    if model in live():
                        server.kill()
                        self.say(f"{model}: its process died; its server is ended, to be started anew")
            time.sleep(0 if watched else LOOK_S)


def models(every: list[Replica]) -> Iterator[tuple[str, psutil.Process, psutil.Process]]:
    """Yield each model that runs in a process of its own with that and its server's process.

    A server that is coming up is left alone: it starts processes that end by themselves.
    """
    for replica in filter(listening, every):
        server = services.process(replica.name)
        for process in server.children() if server else ():
            found = MODEL.search(" ".join(process.cmdline()))
            if server and found:
                yield found[1], process, server


def live() -> set[str]:
    """Name the models that clients are answered by now: others are unloaded on purpose."""
    return {
        name
        for pipeline in receipt.pipelines()
        for name in repository.names(pipeline, repository.live_version(pipeline))
    }
