"""Workers that have a GPU each, over nccl. Two workers on one GPU use gloo: nccl refuses them."""

from datetime import timedelta
from typing import Any, final

import torch
import torch.distributed as dist

from ._torch_group import TorchGroup


@final
class NcclGroup(TorchGroup):
    """A group over nccl; tensors of the collectives live on the worker's GPU.

    Args:
        store: A torch store that all workers of the generation reach.
        rank: This worker's index.
        world_size: Workers in the group.
        device: This worker's GPU.
        timeout_s: Bound of every wait, in seconds.
        name: Prefix of the group's keys in the store: one for each generation.
    """

    def __init__(
        self, store: Any, *, rank: int, world_size: int, device: torch.device, timeout_s: float, name: str
    ) -> None:
        self._shape = (rank, world_size, timeout_s)
        super().__init__(
            store, rank=rank, world_size=world_size, device=device, timeout_s=timeout_s, name=name
        )

    def _make(self, store: Any) -> Any:
        rank, world_size, timeout_s = self._shape
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = timedelta(seconds=timeout_s)
        return dist.ProcessGroupNCCL(store, rank, world_size, options)

    def _bytes_device(self) -> torch.device:
        return self.device

    @property
    def overlaps(self) -> bool:
        """True: nccl runs on streams of its own."""
        return True
