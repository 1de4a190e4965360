"""What a worker needs to join its job, as environment variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from holdtrue.errors import UsageError

WIRE_VERSION = 1
"""Version of everything in this package; launcher and workers of one job have the same."""

_PREFIX = "HOLDTRUE_WORKER_"
_VERSION = f"{_PREFIX}VERSION"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnvironment:
    """What a worker needs to join its job.

    Raises:
        UsageError: a field is out of its range.

    >>> worker = WorkerEnvironment(
    ...     rank=1, world_size=2, store_host="127.0.0.1", store_port=29500,
    ...     store_fd=None, report_fd=4, life_fd=5, job="demo",
    ... )
    >>> WorkerEnvironment.from_env(worker.to_env()) == worker
    True
    """

    rank: int
    """Index of this worker in the group, 0 to world_size - 1."""
    world_size: int
    """Workers in the group, standbys included."""
    store_host: str
    """Address of the generation's store, which lives in rank 0."""
    store_port: int
    """Port of the store."""
    store_fd: int | None
    """Rank 0 only: the inherited listening socket for the store, bound by the launcher."""
    report_fd: int | None
    """Write end of the pipe for reports to the launcher."""
    life_fd: int | None
    """Read end of a pipe from the launcher; its end-of-file means that the launcher is gone."""
    generation: int = 0
    """Number of the present membership."""
    job: str = ""
    """Name of the job."""
    device: str = "cpu"
    """The device that this worker drives: `cpu`, `cuda:0`, ..."""
    mapping: str | None = None
    """Text form of the mapping (`mapping.parse_mapping` reads it); None for the even one."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise UsageError(
                f"rank is {self.rank} and world_size is {self.world_size}; a rank is from 0 to "
                f"world_size - 1. Start workers with `holdtrue run`, which sets both."
            )
        if self.store_fd is not None and self.rank != 0:
            raise UsageError(
                f"rank {self.rank} has a store_fd; the store lives in rank 0. "
                f"Start workers with `holdtrue run`, which passes the socket to rank 0."
            )

    def to_env(self) -> dict[str, str]:
        """The environment variables from which `from_env` reads this back."""
        values = {name: getattr(self, name) for name in _FIELDS}
        written = {_PREFIX + name.upper(): str(value) for name, value in values.items() if value is not None}
        return {_VERSION: str(WIRE_VERSION)} | written

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "WorkerEnvironment | None":
        """The worker environment in `env`, or None if the process is not a worker of a launched job.

        Raises:
            UsageError: the variables are of another version, unknown, missing or malformed.
        """
        found = {name: text for name, text in env.items() if name.startswith(_PREFIX)}
        if not found:
            return None
        version = found.pop(_VERSION, "none")
        if version != str(WIRE_VERSION):
            raise UsageError(
                f"{_VERSION} is {version}; this holdtrue speaks version {WIRE_VERSION}. "
                f"Use the same holdtrue for the launcher and its workers, or unset the {_PREFIX}* variables."
            )
        unknown = sorted(set(found) - {_PREFIX + name.upper() for name in _FIELDS})
        missing = sorted({_PREFIX + name.upper() for name in _REQUIRED} - set(found))
        if unknown or missing:
            raise UsageError(
                f"the variables of a worker have unknown names {unknown} and lack {missing}; `holdtrue run` "
                f"sets them all. Start workers with it, or unset the {_PREFIX}* variables."
            )
        return cls(
            **{
                name: _read(name, found)
                for name in _FIELDS
                if _PREFIX + name.upper() in found or name in _FDS
            }
        )


_FIELDS = tuple(WorkerEnvironment.__dataclass_fields__)
_FDS = ("store_fd", "report_fd", "life_fd")
_REQUIRED = ("rank", "world_size", "store_host", "store_port")
_WHOLE_NUMBERS = {"rank", "world_size", "store_port", "generation", *_FDS}


def _read(name: str, found: Mapping[str, str]) -> Any:  # Any: int, text or None, as the field has it
    variable = _PREFIX + name.upper()
    text = found.get(variable)
    if text is None or name not in _WHOLE_NUMBERS:
        return text
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(
            f"{variable} is {text!r}; it must be a whole number. "
            f"Start workers with `holdtrue run`, or unset the {_PREFIX}* variables."
        )
    return int(text)
