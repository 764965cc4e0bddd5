"""Start a program whose secret arguments are on no command line: anybody may read those of any process.

Triton takes its access rules as arguments only. They are put into its environment, which only its owner may read, and
before its first instruction its list of arguments is pointed there (Linux lays both out on the new program's stack).
"""

import ctypes
import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

TRACE_ME, DETACH = 0, 17  # requests of ptrace(2)
POINTER = struct.calcsize("P")
STACK_FIELD = 28 - 3  # startstack in /proc/PID/stat, counted behind the name; see proc(5)
STACK_BYTES = 256 << 20  # of each of the server's threads: it parses nested JSON by recursion, 115 bytes a level


def start(
    command: Sequence[str], secrets: Sequence[str], environment: Mapping[str, str], stream: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own, its words in a stream, `secrets` being its last arguments.

    `OSError` where the system does not let a process trace its child.
    """
    hidden = {f"ENGINEWORKS_ARGUMENT_{i}": secret for i, secret in enumerate(secrets)}
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(len(secrets)), *command, *("(hidden)" for _ in secrets)],
        env={**environment, **hidden},
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    if secrets:
        hand_over(child, command, list(hidden))
    return child


def become(secrets: int, command: list[str]) -> None:
    """Turn this process into the server, which waits to be traced before its first instruction.

    It is a program of its own, not code between fork and exec: there, gRPC's threads in the parent made it crash.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background shell had it ignored
    resource.setrlimit(resource.RLIMIT_STACK, (STACK_BYTES, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    if secrets and ctypes.CDLL(None, use_errno=True).ptrace(TRACE_ME, 0, None, None):
        raise OSError(ctypes.get_errno(), "this system forbids ptrace, without which secrets show on the command line")
    os.execve(command[0], command, os.environ)


def hand_over(child: subprocess.Popen[bytes], command: Sequence[str], names: list[str]) -> None:
    """Point the stopped child's arguments behind the command at the values of environment variables; let it run."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        _, status = os.waitpid(child.pid, 0)
        if not os.WIFSTOPPED(status):
            code = os.waitstatus_to_exitcode(status)  # negative where a signal ended it
            raise OSError(f"{command[0]}: can't be started with its secrets hidden: it ended with {code}; see its log")
        about = Path("/proc", str(child.pid))
        stack = int((about / "stat").read_text().rpartition(")")[2].split()[STACK_FIELD])
        with (about / "mem").open("r+b", buffering=0) as memory:
            count, *pointers = vectors(memory, stack)
            variables = {text.partition(b"=")[0].decode(): (at, text) for at, text in strings(memory, pointers[count:])}
            for offset, name in enumerate(names):
                memory.seek(stack + POINTER * (1 + len(command) + offset))
                memory.write(struct.pack("P", variables[name][0] + len(name) + 1))
    except BaseException:
        child.kill()
        raise
    finally:
        libc.ptrace(DETACH, child.pid, None, None)


def vectors(memory: IO[bytes], stack: int) -> list[int]:
    """Return the number of arguments, then the addresses of the arguments and of the environment's strings."""
    memory.seek(stack)
    found = [read_pointer(memory)]
    for _ in range(2):  # each list ends with a zero
        while pointer := read_pointer(memory):
            found.append(pointer)
    return found


def read_pointer(memory: IO[bytes]) -> int:
    """Return the next pointer."""
    return int(struct.unpack("P", memory.read(POINTER))[0])


def strings(memory: IO[bytes], pointers: list[int]) -> list[tuple[int, bytes]]:
    """Return the beginning of the text at each address: enough for a variable's name."""
    found = []
    for pointer in pointers:
        memory.seek(pointer)
        found.append((pointer, memory.read(64)))
    return found


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
