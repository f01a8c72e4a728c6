"""Data parallelism under `torchrun`: every rank sees the global batch and trains on its part of it.

All decisions that ranks must take together (stop, skip, save) rest on numbers that were summed or sent from rank 0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pretune import errors
from pretune.errors import PretuneError, UsageError, first_line
from pretune.runtime.parallel import ParallelConfig
from pretune.runtime.watchdog import Progress, Watchdog

T = TypeVar("T")
_LOST = ("gloo", "Connection closed", "Connection reset", "NCCL")
_PATIENCE = timedelta(minutes=30)  # rank 0 may be saving


@dataclass(frozen=True)
class Distributed:
    """This process among those that train together.

    Attributes:
        rank: number of this process, 0 writes the files.
        size: number of processes.
        local: number of this process on its machine, which is that of its GPU.
        progress: how far it is, for the watchdog.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    progress: Progress = field(default_factory=Progress, compare=False, repr=False)
    _replicas: list[DistributedDataParallel] = field(default_factory=list, compare=False, repr=False)

    @property
    def is_main(self) -> bool:
        """Is this the rank that writes files and speaks?"""
        return self.rank == 0

    def shutdown(self) -> None:
        """Leave the other ranks; they notice at once if they still wait for this one.

        A reducer that outlives the process group, as in the frames of an exception, would be its last owner: it would
        wait for the group's threads while it holds the interpreter's lock, for which they wait.
        """
        for replica in self._replicas:
            replica.logger = None
            del replica.reducer
        dist.destroy_process_group()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the ranks, in fp64, so integers below 2^53 stay exact."""
        if self.size == 1:
            return list(values)
        self.progress.mark("a sum over all ranks")
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def broadcast(self, value: T) -> T:
        """Rank 0's value, which must be plain JSON, on every rank."""
        if self.size == 1:
            return value
        self.progress.mark("a broadcast of rank 0")
        text = json.dumps(value).encode() if self.is_main else b""
        size = torch.tensor([len(text)])
        dist.broadcast(size, 0)
        data = torch.frombuffer(bytearray(text or bytes(int(size))), dtype=torch.uint8)
        dist.broadcast(data, 0)
        out: T = json.loads(bytes(data.tolist()))
        return out

    def all_gather_object(self, value: T) -> list[T]:
        """Every rank's value, which must be plain JSON, in the order of the ranks, on every rank."""
        if self.size == 1:
            return [value]
        self.progress.mark("a gathering of all ranks")
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(text)]))
        max_size = max(int(size) for size in sizes)
        parts = [torch.zeros(max_size, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(parts, torch.nn.functional.pad(text, (0, max_size - len(text))))
        return [json.loads(bytes(part[: int(size)].tolist())) for part, size in zip(parts, sizes, strict=True)]

    def all_gather_pickled(self, value: T) -> list[T]:
        """Every rank's value, any Python object, in the order of the ranks, on every rank."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return cast(list[T], values)

    def all_gather(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Every rank's rows, in the order of the ranks, on every rank. Shape: (n, ...), n may differ."""
        if self.size == 1:
            return [rows]
        counts = [int(count) for count in self.all_gather_object(len(rows))]
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return [part[:count] for part, count in zip(parts, counts, strict=True)]

    def on_main(self, action: Callable[[], T]) -> T | None:
        """Do something on rank 0 alone; if it fails there, every rank raises the same error.

        Returns:
            What the action gave on rank 0, None elsewhere.
        """
        result: T | None = None
        problem: list[str] | None = None
        failure: PretuneError | None = None
        before = self.progress.in_step
        self.progress.mark("what rank 0 does alone", in_step=False)  # on all ranks: their marks are compared
        if self.is_main:
            try:
                result = action()
            except PretuneError as error:
                problem, failure = [type(error).__name__, str(error)], error
        self.progress.in_step = before
        problem = self.broadcast(problem)
        if failure is not None:
            raise failure
        if problem is not None:
            raise _rebuilt(problem)
        return result

    def on_all_ranks(self, action: Callable[[], T]) -> T:
        """Do something on every rank; if it fails on one, all raise an error.

        Returns:
            What the action gave on this rank.
        """
        problem: list[str] | None = None
        failure: PretuneError | None = None
        results: list[T] = []
        try:
            results.append(action())
        except PretuneError as error:
            problem, failure = [type(error).__name__, str(error)], error
        problems = self.all_gather_object(problem)
        if failure is not None:
            raise failure
        for rank, other in enumerate(problems):
            if other is not None:
                raise _rebuilt([other[0], f"rank {rank}: {other[1]}"])
        return results[0]


@contextmanager
def join_ranks(device: str = "auto") -> Iterator[Distributed]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    Raises:
        UsageError: torchrun's variables are incomplete.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or dist.is_initialized():
        yield Distributed(dist.get_rank(), dist.get_world_size(), _local()) if dist.is_initialized() else Distributed()
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(f"WORLD_SIZE is {size} but {', '.join(missing)} is not set; start with torchrun")
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(_local())
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    distributed = Distributed(dist.get_rank(), dist.get_world_size(), _local())
    watchdog = _watch(distributed)
    reason: str | None = None
    try:
        yield distributed
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(word in str(error) for word in _LOST):
            why = "; ".join(watchdog.reasons()) or _first_sentence(error)
            raise PretuneError(f"another rank ended or cannot be reached: {why}") from error
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise
    finally:
        watchdog.close(reason)
        distributed.shutdown()


def _watch(distributed: Distributed) -> Watchdog:
    """Watches the other ranks through a client of its own to the store of the process group."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    client = dist.TCPStore(  # type: ignore[attr-defined]
        address, port, is_master=False, wait_for_workers=False, timeout=timedelta(minutes=5)
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"pretune/{attempt}", client)  # type: ignore[attr-defined]
    return Watchdog(store, distributed.rank, distributed.size, distributed.progress)


def _rebuilt(problem: list[str]) -> PretuneError:
    """The error of another rank, from its class and text."""
    error: type[PretuneError] = getattr(errors, problem[0], PretuneError)
    return error(problem[1])


def _first_sentence(error: Exception) -> str:
    return first_line(error).partition(". ")[0]


def parallelize(root: nn.Module, mesh: Distributed, config: ParallelConfig, has_unused: bool = False) -> nn.Module:
    """The root module with its work shared among ranks; the module itself where there is one rank.

    DDP takes the mean of gradients over ranks, which the scale of the loss undoes.

    Args:
        root: on its device; all that a step calls must be one forward of it.
        mesh: this rank among the others; it takes leave of what is made here when it shuts down.
        has_unused: there may be steps without a gradient for some of the parameters that learn, alike on all ranks.
    """
    if mesh.size == 1:
        return root
    replica = DistributedDataParallel(root, bucket_cap_mb=config.bucket_mb, find_unused_parameters=has_unused)
    mesh._replicas.append(replica)
    return replica


def bare(root: nn.Module) -> nn.Module:
    """The module that `parallelize` was given."""
    return root.module if isinstance(root, DistributedDataParallel) else root


def no_sync(root: nn.Module) -> AbstractContextManager[None]:
    """The context of a backward that does not sum gradients over ranks: all micro-batches but the last."""
    return root.no_sync() if isinstance(root, DistributedDataParallel) else nullcontext()


def _local() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))
