"""The controller's service in its process."""

import asyncio
import socket as sockets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from holdtrue.service import App, Tokens, serve_app
from holdtrue.wire import MOST_MESSAGE_BYTES

from ._controller import Controller
from ._memory import Memory
from ._service import build_app
from ._state import JobSettings

if TYPE_CHECKING:
    import uvicorn

LINGER_S = 60.0
"""After the end of the job: for those who come back, or look."""


async def serve(
    settings: JobSettings,
    tokens: Tokens,
    listener: sockets.socket,
    *,
    description: Mapping[str, Any],  # Any: JSON values
    memory: Memory | None = None,
    keep: Callable[[Memory], None] = lambda _: None,
    linger_s: float = LINGER_S,
) -> None:
    """Serve one job until SIGTERM, or until it has been over for `linger_s`; `memory` and `keep` as `Controller` has them."""
    controller = Controller(settings, memory=memory, keep=keep)

    async def end_after_the_job(server: "uvicorn.Server") -> None:
        await controller.over.wait()
        await asyncio.sleep(linger_s)
        server.should_exit = True

    try:
        await serve_app(
            cast(App, build_app(controller, description)),
            tokens=tokens,
            listener=listener,
            most_message_bytes=MOST_MESSAGE_BYTES,
            beside=end_after_the_job,
        )
    finally:
        controller.close()
