"""Where an elastic job runs on this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One machine's part of an elastic job."""

    url: str
    """Where the controller listens."""
    token_file: Path
    """File with the token of scope `join`."""
    address: str
    """Address of this machine by which the other workers reach its workers."""
    logs: Path
    """Folder of the workers' logs."""
    group_timeout_s: float
    """Bound of every wait between workers."""
    is_guest: bool = False
    """Whether the job goes on without this machine: its launcher is another one."""
