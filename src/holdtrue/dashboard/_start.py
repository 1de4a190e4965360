"""The way in: importing it loads no web framework."""

from collections.abc import Callable
from pathlib import Path


def serve_dashboard(
    *, jobs: Path, runs: Path, cluster: Path, host: str, port: int, say: Callable[[str], None]
) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Args:
        jobs: The user's folder of jobs; the token's file is laid beside it.
        runs: Folder of run directories.
        cluster: Folder of the shared cluster; there need not be one.
        host: An address of this machine; loopback, unless the network is trusted to look.
        port: 0 for any that is free.
        say: Shows a sentence.

    Raises:
        UsageError: nothing can listen there.
    """
    from ._server import run_dashboard  # FastAPI and uvicorn take a third of a second

    run_dashboard(jobs=jobs, runs=runs, cluster=cluster, host=host, port=port, say=say)
