"""A server that leaves signals to its caller."""

import contextlib

import uvicorn


class QuietServer(uvicorn.Server):
    """Without signal handlers of its own: they would end the process before the caller has cleaned up."""

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Nothing to capture."""
        return contextlib.nullcontext()
