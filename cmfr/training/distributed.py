"""Processes that train together, one per GPU (or per CPU share), started by torchrun."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cmfr.utils.device import pick_device
from cmfr.utils.errors import UserError


@dataclass(frozen=True)
class Team:
    """This process among its `size` equals. A team of one needs no launcher."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """The part of `total` samples that is this process's; equal for all."""
        assert total % self.size == 0
        part = total // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def wrap(self, module: nn.Module) -> Callable[..., Any]:
        """`module` whose backward averages gradients over the team."""
        if self.size == 1:
            return module
        # Which adaptor a P-frame uses depends on its position: not all weights have a part in
        # every backward pass.
        return DistributedDataParallel(
            module,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            find_unused_parameters=True,
            broadcast_buffers=False,  # none of them changes in training
            gradient_as_bucket_view=True,
        )

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the team, in place."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def most(self, *values: float) -> list[float]:
        """The largest of each over the team. All must call it."""
        if self.size == 1:
            return list(values)
        both = torch.tensor(values, dtype=torch.float64)  # on the CPU: a GPU would be waited for
        dist.all_reduce(both, op=dist.ReduceOp.MAX)
        return both.tolist()

    def gather(self, item: Any) -> list[Any]:
        """Every process's `item`, by rank."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    def barrier(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


def init_team(wanted: str) -> Team:
    """The team that torchrun's environment describes; a team of one without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Team(0, 1, pick_device(wanted))
    device = pick_device(wanted)
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise UserError(
                f"{local + 1} processes or more were started on this node, which has "
                f"{torch.cuda.device_count()} GPUs"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return Team(dist.get_rank(), size, device)


def leave() -> None:
    """End the team's connections."""
    if dist.is_initialized():
        dist.destroy_process_group()
