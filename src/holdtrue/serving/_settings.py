"""What a server is told once, at its start."""

from dataclasses import dataclass
from typing import Literal, final

from holdtrue.errors import UsageError

MOST_WORKERS = 256
LEVELS = ("exact", "fast")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Settings of a server.

    Raises:
        UsageError: a number is out of its range.
    """

    model: str
    """What `inference.load_model` takes."""
    weights: str | None = None
    """Safetensors file for a model from a Python file."""
    example: str | None = None
    """Data file whose first row shows what an example looks like; None where the model says it itself."""
    tokens: int = 128
    """Tokens to which every text is cut or filled up, for a model of texts."""
    virtual_nodes: int = 16
    """V: passes that may be under way at once, and the most workers that are useful."""
    pass_size: int = 8
    """Examples of a pass; passes that are not full are filled up."""
    numerics: Literal["exact", "fast"] = "exact"
    """`exact`: passes of one shape. `fast`: passes of what waits, whose bits depend on the load."""
    workers: int = 1
    """Processes to start with."""
    threads: int = 1
    """Intra-op threads of each worker; bits depend on it."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    queue: int = 256
    """Requests that may be inside at once; the next one is answered 429."""
    timeout_s: float = 30.0
    """Bound of a request, from its whole body to its answer."""
    pass_timeout_s: float = 20.0
    """Bound of a pass; a worker that does not answer in it is ended, and its requests go to others."""
    start_timeout_s: float = 300.0
    """Bound of a worker's start: imports, the model, the trial passes."""
    audit_every: int = 1000
    """Of so many passes of a worker one is computed again at other positions and compared; 0 for none."""
    most_body_bytes: int = 2**20
    """Bytes of a request's body."""

    def __post_init__(self) -> None:
        for name in (
            "virtual_nodes",
            "pass_size",
            "workers",
            "threads",
            "queue",
            "tokens",
            "most_body_bytes",
        ):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"{name.replace('_', '-')} is {getattr(self, name)}; it is a number from 1. Give such a number."
                )
        for name in ("timeout_s", "pass_timeout_s", "start_timeout_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(
                    f"{name.removesuffix('_s').replace('_', '-')} is {getattr(self, name)} s; every wait has a bound above 0. "
                    f"Give seconds."
                )
        if self.audit_every < 0:
            raise UsageError(
                f"audit-every is {self.audit_every}; it is a number from 0, which is never. Give one."
            )
        if self.numerics not in LEVELS:
            raise UsageError(
                f"numerics is {self.numerics!r}; a server computes at {' or '.join(LEVELS)}. Give one of them."
            )
        check_workers(self.workers)


def check_workers(workers: int) -> int:
    """`workers`, if a server can have so many.

    Raises:
        UsageError: it can not.
    """
    if not 1 <= workers <= MOST_WORKERS:
        raise UsageError(
            f"workers is {workers}; a server has 1 to {MOST_WORKERS}. Give such a number, or end it with `holdtrue stop`."
        )
    return workers
