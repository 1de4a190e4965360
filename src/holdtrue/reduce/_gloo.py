"""Workers on CPUs, and workers that share one GPU (through pinned host memory), over gloo."""

from datetime import timedelta
from typing import Any, final

import torch
import torch.distributed as dist

from ._torch_group import TorchGroup

MARGIN_S = 30.0
"""gloo's own time-out lies this far beyond ours, so that our sentence comes first."""


@final
class GlooGroup(TorchGroup):
    """A group over gloo on one network interface; tensors of the collectives live in host memory.

    Args:
        store: A torch store that all workers of the generation reach.
        rank: This worker's index.
        world_size: Workers in the group.
        timeout_s: Bound of every wait, in seconds.
        name: Prefix of the group's keys in the store: one for each generation.
        hostname: Address to listen on; loopback unless the user says otherwise.
    """

    def __init__(
        self,
        store: Any,
        *,
        rank: int,
        world_size: int,
        timeout_s: float,
        name: str,
        hostname: str = "127.0.0.1",
    ) -> None:
        self._hostname = hostname
        self._shape = (rank, world_size, timeout_s)
        super().__init__(
            store,
            rank=rank,
            world_size=world_size,
            device=torch.device("cpu"),
            timeout_s=timeout_s,
            name=name,
        )

    def _make(self, store: Any) -> Any:
        rank, world_size, timeout_s = self._shape
        options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # absent from the stubs
        options._timeout = timedelta(seconds=timeout_s + MARGIN_S)
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=self._hostname)]
        return dist.ProcessGroupGloo(store, rank, world_size, options)

    @property
    def overlaps(self) -> bool:
        """True: gloo moves bytes in threads of its own."""
        return True
