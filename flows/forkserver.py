"""Stages as forks of one process that has the large packages loaded: loading them anew takes seconds a stage.

Until it has them, where it can't be forked, and where DVC runs without a flow, a stage is a process of its own.
"""

import multiprocessing
import os
import shlex
import sys
import threading
from pathlib import Path
from typing import Any

from setproctitle import setproctitle

PACKAGES = ("torch._dynamo", "pytorch_lightning", "safetensors.torch", "modelopt.onnx", "onnxruntime", "onnxscript")
COMMAND = ["python", "-m", "tasks.command"]
DRIVER = "libcuda.so"  # a process that has used it hands no CUDA on to its forks


class ForkServer:
    """Runs stages for DVC in this process, from `install` on."""

    def __init__(self) -> None:
        self.context: Any = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(list(PACKAGES))
        self.loading = threading.Thread(target=self.load, daemon=True)
        self.loaded = False

    def install(self) -> None:
        """Have DVC start its commands by us, and load the packages meanwhile."""
        from dvc.stage import run

        self.plainly = run._run
        run._run = self.run
        self.loading.start()

    def load(self) -> None:
        """Start the server and wait for its first fork, which tells whether others may follow."""
        first = self.context.Process(target=refuse_driver)
        first.start()
        first.join()
        self.loaded = first.exitcode == 0

    def run(self, executable: str, cmd: str, **kwargs: Any) -> None:
        """Run a command as DVC's `_run` does; a stage's by a fork, once there is something to fork."""
        from dvc.stage.exceptions import StageCmdFailedError

        words = shlex.split(cmd)
        if not self.loaded or words[: len(COMMAND)] != COMMAND:
            self.plainly(executable, cmd, **kwargs)
            return
        child = self.context.Process(target=live, args=(words, kwargs["env"], kwargs["cwd"]))
        child.start()
        child.join()
        if child.exitcode:
            raise StageCmdFailedError(cmd, child.exitcode)


def refuse_driver() -> None:
    """End with an error where a package has loaded NVIDIA's driver."""
    sys.exit(int(DRIVER in Path("/proc/self/maps").read_text()))


def live(words: list[str], environment: dict[str, str], folder: str) -> None:
    """Be the process of a stage."""
    setproctitle(shlex.join(words))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words[2:]
    from tasks import command

    sys.exit(command.main(words[len(COMMAND) :]))
