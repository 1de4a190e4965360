"""What a worker needs to join its job, as environment variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from holdtrue.errors import UsageError

WIRE_VERSION = 1
"""Version of everything in this package; launcher and workers of one job have the same."""

_PREFIX = "HOLDTRUE_WORKER_"
_VERSION = f"{_PREFIX}VERSION"
_WAY_OUT = "Start workers with `holdtrue run`, which sets all of it."


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnvironment:
    """What a worker needs to join its job: in a fixed group (rank, world size, one store), or an elastic one.

    Raises:
        UsageError: a field is out of its range, or belongs to the other form.

    >>> fixed = WorkerEnvironment(worker=1, rank=1, world_size=2, store_host="127.0.0.1", store_port=29500)
    >>> elastic = WorkerEnvironment(
    ...     worker=4, store_host="127.0.0.1", store_port=40000, store_fd=6,
    ...     controller_url="http://127.0.0.1:41000", token_file="/run/user/1000/holdtrue/jobs/demo.join",
    ... )
    >>> WorkerEnvironment.from_env(fixed.to_env()) == fixed, WorkerEnvironment.from_env(elastic.to_env()) == elastic
    (True, True)
    >>> fixed.is_elastic, elastic.is_elastic
    (False, True)
    """

    worker: int
    """Number of this worker in the job: given once, from 0; in a fixed group its rank."""
    store_host: str
    """Fixed: address of the group's store, which lives in rank 0. Elastic: address on which this worker's own
    store listens, and by which the other workers reach it."""
    store_port: int
    """Port of that store."""
    store_fd: int | None = None
    """The inherited listening socket for the store, bound by whoever started this process: rank 0's in a
    fixed group, each worker's own in an elastic one."""
    report_fd: int | None = None
    """Write end of the pipe for reports to the launcher."""
    life_fd: int | None = None
    """Read end of a pipe from the launcher; its end-of-file means that the launcher is gone."""
    log_file: str | None = None
    """Where this worker's output belongs once nobody reads its pipes."""
    output_fds: tuple[int, ...] = ()
    """Read ends of the pipes of its stdout and stderr; see `redirect_output`."""
    job: str = ""
    """Name of the job."""
    device: str = "cpu"
    """The device that this worker drives: `cpu`, `cuda:0`, ..."""
    mapping: str | None = None
    """Fixed: text form of the mapping (`mapping.parse_mapping` reads it); None for the even one. In an
    elastic group the views say it."""
    rank: int | None = None
    """Fixed: index of this worker in the group, 0 to world_size - 1."""
    world_size: int | None = None
    """Fixed: workers in the group, standbys included."""
    generation: int = 0
    """Fixed: number of the membership."""
    controller_url: str | None = None
    """Elastic: where the job's controller listens, such as `http://127.0.0.1:41000`; no secret is in it."""
    token_file: str | None = None
    """Elastic: file with the token of scope `join`, which only this user can read."""
    group_timeout_s: float | None = None
    """Elastic: bound of every wait between workers, in seconds; None leaves it to the settings."""
    is_guest: int = 0
    """Elastic: 1 if the job goes on without this worker's host, which is not the launcher: at the host's death this
    worker alone leaves."""
    at_fd: int | None = None
    """Elastic: shared page of four little-endian int64, `<4q`: 1 in a pass and 0 outside, step, round,
    virtual node. The host reads it when the worker has died."""

    @property
    def is_elastic(self) -> bool:
        """Whether the group's members change; then the agent says who they are."""
        return self.controller_url is not None

    def __post_init__(self) -> None:
        if self.worker < 0:
            raise UsageError(f"worker is {self.worker}; it is a number from 0. {_WAY_OUT}")
        if self.is_elastic:
            self._check_elastic()
        else:
            self._check_fixed()

    def _check_elastic(self) -> None:
        given = [name for name in ("rank", "world_size", "mapping") if getattr(self, name) is not None]
        if given:
            raise UsageError(
                f"worker {self.worker} has a controller_url and also {', '.join(given)}; in an elastic group the "
                f"views say these. {_WAY_OUT}"
            )
        if self.token_file is None or self.store_fd is None:
            raise UsageError(
                f"worker {self.worker} has a controller_url and lacks a token_file or a store_fd; it needs both. {_WAY_OUT}"
            )

    def _check_fixed(self) -> None:
        if self.rank is None or self.world_size is None or not 0 <= self.rank < self.world_size:
            raise UsageError(
                f"rank is {self.rank} and world_size is {self.world_size}; a rank is from 0 to "
                f"world_size - 1. {_WAY_OUT}"
            )
        if self.worker != self.rank:
            raise UsageError(
                f"worker is {self.worker} and rank is {self.rank}; they are equal in a fixed group. {_WAY_OUT}"
            )
        if self.store_fd is not None and self.rank != 0:
            raise UsageError(
                f"rank {self.rank} has a store_fd; the store of a fixed group lives in rank 0. "
                f"Start workers with `holdtrue run`, which passes the socket to rank 0."
            )

    def to_env(self) -> dict[str, str]:
        """The environment variables from which `from_env` reads this back."""
        values = {name: getattr(self, name) for name in _FIELDS}
        written = {
            _PREFIX + name.upper(): _write(value) for name, value in values.items() if value not in (None, ())
        }
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
        return cls(**{name: _read(name, found) for name in _FIELDS if _PREFIX + name.upper() in found})


_FIELDS = tuple(WorkerEnvironment.__dataclass_fields__)
_REQUIRED = ("worker", "store_host", "store_port")
_WHOLE_NUMBERS = {
    *("worker", "rank", "world_size", "generation", "store_port", "is_guest"),
    *("store_fd", "report_fd", "life_fd", "at_fd"),
}
_NUMBERS = {"group_timeout_s"}


def _write(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _read(name: str, found: Mapping[str, str]) -> Any:  # Any: what the field has
    variable = _PREFIX + name.upper()
    text = found[variable]
    try:
        if name in _NUMBERS:
            return float(text)
    except ValueError:
        raise UsageError(f"{variable} is {text!r}; it must be a number. {_WAY_OUT}") from None
    if name == "output_fds":
        return tuple(_read_whole(variable, part) for part in text.split(","))
    return _read_whole(variable, text) if name in _WHOLE_NUMBERS else text


def _read_whole(variable: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(
            f"{variable} is {text!r}; it must be a whole number. "
            f"Start workers with `holdtrue run`, or unset the {_PREFIX}* variables."
        )
    return int(text)
