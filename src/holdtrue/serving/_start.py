"""The way in: importing it loads no web framework."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from ._settings import ServeSettings


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a server stands."""

    jobs: Path
    """The user's folder of jobs."""
    name: str
    is_name_given: bool
    run_dir: Path
    """For logs and events; it is made."""
    host: str
    port: int
    """0 for any that is free."""
    devices: tuple[str, ...]
    """Devices of this machine that workers may drive, such as `cpu` or `cuda:0`."""


def serve(settings: ServeSettings, place: Place, say: Callable[[str], None]) -> None:
    """Serve until SIGINT, SIGTERM or `holdtrue stop`; then answer those who are inside, and end.

    Args:
        settings: What to serve.
        place: Where.
        say: Shows a sentence.

    Raises:
        UsageError, GroupError: the address or the name is taken, or the model cannot be served.
    """
    from ._server import run_server  # FastAPI and uvicorn take a third of a second

    run_server(settings, place, say)
