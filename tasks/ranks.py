"""The processes that train one network together: which of them this is, and what they tell each other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from tasks import gpu

WAIT = timedelta(minutes=10)  # for a node to come, and for a process that is behind
VARIABLES = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")  # as Lightning and torchrun name them


@dataclass(frozen=True)
class Place:
    """Where a process stands: its number on its node, of so many, and its node's, of so many."""

    local: int
    devices: int
    node: int
    nodes: int

    @property
    def rank(self) -> int:
        """This process's number among all."""
        return self.node * self.devices + self.local

    @property
    def ranks(self) -> int:
        """How many processes there are in all."""
        return self.devices * self.nodes


def here(devices: int, nodes: int, batch_size: int) -> Place:
    """Return the place of a node's first process; `ValueError` where this machine or the batch does not suit."""
    kind, there = offered()
    if devices > there:
        raise ValueError(f"train.devices: {devices}, but this machine has {there} {kind}; lower it")
    if batch_size % (count := devices * nodes):
        raise ValueError(
            f"train.batch_size: {batch_size} can't be shared evenly by {count} processes (train.devices times "
            f"train.num_nodes); make it a multiple of {count}"
        )
    return Place(0, devices, number(nodes), nodes)


def offered() -> tuple[str, int]:
    """Return what a process of a training has for itself on this machine, and how many of them there are."""
    found = gpu.driver() if gpu.missing() is None else None
    return ("GPUs", len(found.gpus)) if found else ("cores", len(os.sched_getaffinity(0)))


def number(nodes: int) -> int:
    """Return this node's number; `ValueError` where the environment does not say it, or where the nodes meet."""
    if nodes == 1:
        return 0
    if missing := [name for name in VARIABLES if not os.environ.get(name)]:
        raise ValueError(
            f"train.num_nodes: {nodes}, but {', '.join(missing)} is not set; run the stage on every node with "
            f"NODE_RANK (0 to {nodes - 1}), and MASTER_ADDR and MASTER_PORT of node 0 on all of them"
        )
    given = os.environ["NODE_RANK"]
    if not given.isdigit() or int(given) >= nodes:
        raise ValueError(f"NODE_RANK: {given}, but train.num_nodes is {nodes}; give each node its own, from 0")
    return int(given)


@contextmanager
def group(place: Place, meeting: str) -> Iterator[None]:
    """While the body runs, be one of the group that meets at this address."""
    import torch
    from torch import distributed

    if place.nodes == 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nobody outside is to connect
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(place.local)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    distributed.init_process_group(backend, init_method=meeting, rank=place.rank, world_size=place.ranks, timeout=WAIT)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def alone() -> bool:
    """Tell whether this process trains by itself."""
    from torch import distributed

    return not (distributed.is_available() and distributed.is_initialized())


def first() -> bool:
    """Tell whether this process is the one that writes."""
    from torch import distributed

    return alone() or distributed.get_rank() == 0


def own(of_all: list[Any]) -> Any:
    """Return this process's value of what `gathered` returned."""
    from torch import distributed

    return of_all[0 if alone() else distributed.get_rank()]


def gathered(value: Any) -> list[Any]:
    """Return the values of all processes, by number; each has to ask."""
    from torch import distributed

    if alone():
        return [value]
    found = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, value)
    return found


def summed(counts: dict[str, Any]) -> dict[str, Any]:
    """Return the sums over all processes, always added in the same order; each has to ask."""
    every = gathered(counts)
    return {name: sum(each[name] for each in every) for name in counts}


def told(value: Any) -> Any:
    """Return what the first process has; each has to ask."""
    from torch import distributed

    if alone():
        return value
    box = [value if first() else None]
    distributed.broadcast_object_list(box, 0)
    return box[0]


def agreed(wish: bool) -> bool:
    """Return what the first process wishes; each has to ask. It takes no pickling, as it is asked at every step."""
    import torch
    from torch import distributed

    if alone():
        return wish
    flag = torch.tensor(wish)
    distributed.broadcast(flag, 0)
    return bool(flag)


class Shared:
    """A process's batches, whose state is that of all processes', so that one checkpoint serves them all."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    @property
    def waited(self) -> float:
        """Seconds that were waited for this process's batches."""
        return float(self.batches.waited)

    def state_dict(self) -> dict[str, Any]:
        """Return where each process's data stands."""
        return {"processes": gathered(self.batches.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where this process's data stood."""
        self.batches.load_state_dict(own(state["processes"]))
