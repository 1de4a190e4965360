"""Which Ray cluster, as a user names it."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import final

from holdtrue.errors import UsageError

READY = "ready"
"""An agent's first answer."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RayChoice:
    """A Ray cluster.

    Raises:
        UsageError: the address is none of a cluster.
    """

    address: str = ""
    """`HOST:PORT` of a cluster that runs, of which this machine is a node; empty for one of this machine's own."""
    listen: str = ""
    """Address on which jobs listen for workers of other machines; empty for this machine alone."""

    def __post_init__(self) -> None:
        host, colon, port = self.address.rpartition(":")
        if self.address and not (colon and host and "/" not in host and port.isascii() and port.isdecimal()):
            raise UsageError(
                f"--address is {self.address!r}; it is HOST:PORT of a Ray cluster that has this machine as a node (its "
                f"`ray start` prints it). Give that, or leave it out for a cluster of this machine's own."
            )
        if self.listen and not self.address:
            raise UsageError(
                "--listen is given and --address is not; a Ray cluster of this machine's own has no other machines. "
                "Leave out --listen."
            )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RayCluster:
    """A Ray cluster that stands."""

    address: str
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that a process needs to be let in."""
    end: Callable[[], None] = field(default=lambda: None)
    """End it, if it is this scheduler's own."""


def check_ray() -> None:
    """Refuse the engine where Ray is not installed; Ray is not loaded.

    Raises:
        UsageError: it is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError(
            "the engine is ray, and Ray is not installed here. Install it with `pip install 'holdtrue[ray]'`, or use the "
            "embedded engine."
        )
