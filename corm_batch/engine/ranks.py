"""Ranks: the processes that run one model together, each with its share of every layer's heads.

All of them take the same steps in the same order, although their heads keep different numbers of entries: whatever a
decision depends on is agreed first. Rank 0 leads: callers talk to it alone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import TCPStore
from torch.distributed import device_mesh
from torch.nn.functional import pad

T = TypeVar("T")

_TIMEOUT = timedelta(minutes=10)
"""How long one rank waits for another in the same step before it gives up."""


class Ranks:
    """One process alone, which agrees with itself.

    Attributes:
        rank: of this process.
        size: how many there are.
    """

    rank, size = 0, 1

    def least(self, number: int) -> int:
        """The smallest of the ranks' numbers."""
        return number

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks."""
        return [value]

    def lead(self, decide: Callable[[], T]) -> T:
        """What rank 0 decides; the others do not even ask."""
        return decide()

    def share(self, tensor: Tensor) -> None:
        """Overwrite the tensor with rank 0's."""

    def gather_heads(self, tensor: Tensor) -> Tensor:
        """Every rank's [..., K, N] side by side, in the order of ranks: [..., all heads, the longest N], 0 behind."""
        return tensor

    @contextmanager
    def few_groups(self) -> Iterator[None]:
        """While it lasts, whoever makes groups of torch.distributed gets the same ones again for the same ranks."""
        yield


ALONE = Ranks()


class JoinedRanks(Ranks):
    """Several processes of one host, joined by torch.distributed: NCCL between GPUs, gloo in host memory.

    Args:
        rank: of this process.
        size: how many there are.
        port: of rank 0's store on loopback.
        listener: the socket that listens there, in rank 0.
    """

    def __init__(self, rank: int, size: int, port: int, listener: socket.socket | None = None) -> None:
        self.rank, self.size = rank, size
        self.device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        os.environ["LOCAL_RANK"] = str(rank)  # transformers puts this rank's share on the GPU of that number
        loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, loopback)
        # By itself the store would listen on every interface.
        listening = None if listener is None else listener.detach()
        store = TCPStore("127.0.0.1", port, size, rank == 0, _TIMEOUT, master_listen_fd=listening)
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
        self._groups: dict[tuple[int, ...], Any] = {}

    def least(self, number: int) -> int:
        """The smallest of the ranks' numbers."""
        numbers = torch.tensor([number])
        dist.all_reduce(numbers, dist.ReduceOp.MIN)
        return int(numbers)

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def share(self, tensor: Tensor) -> None:
        """Overwrite the tensor with rank 0's."""
        dist.broadcast(tensor, 0)

    def gather_heads(self, tensor: Tensor) -> Tensor:
        """Every rank's [..., K, N] side by side, in the order of ranks: [..., all heads, the longest N], 0 behind."""
        own = pad(tensor, (0, -self.least(-tensor.shape[-1]) - tensor.shape[-1])).contiguous()
        sent = own.view(torch.uint8) if own.dtype == torch.bool else own
        heads = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(heads, sent)
        return torch.cat(heads, dim=-2).view(own.dtype)

    @contextmanager
    def few_groups(self) -> Iterator[None]:
        """While it lasts, meshes of devices share the groups of their dimensions.

        transformers makes two meshes of four dimensions for each model that it loads, most of them of one rank; each
        would have a group, which is three threads that wake up a hundred times a second, and a socket that listens.
        """
        meshes: Any = device_mesh
        make = meshes.new_group

        def find(ranks: Sequence[int], **options: Any) -> Any:
            if (key := tuple(ranks)) not in self._groups:
                self._groups[key] = make(ranks=ranks, **options)
            return self._groups[key]

        meshes.new_group = find
        try:
            yield
        finally:
            meshes.new_group = make
