"""Finding a job on the network: who listens at its URL, and by which address."""

import select
import socket
import time
from urllib.parse import urlsplit

from holdtrue.errors import GroupError
from holdtrue.service import url_at
from holdtrue.units import reason_of

CONNECT_TIMEOUT_S = 5.0
"""Bound of one connection."""
_AGAIN_S = 0.5


def reach(url: str, *, wait_s: float, interrupt_fd: int) -> str | None:
    """The URL of whoever listens at `url`, with the address that answered in place of a name.

    A controller answers to its address alone (it refuses other Host headers), and a name may stand for several.

    Args:
        url: Such as `http://digits:4100`.
        wait_s: How long somebody may take to be there; 0 for one try.
        interrupt_fd: Readable once this process is to end.

    Returns:
        None if it is to end before anybody is there.

    Raises:
        GroupError: nobody listens there.

    Blocks:
        `wait_s` and one try: the look-up of the name, and `CONNECT_TIMEOUT_S` for each of its addresses. A signal is
        heard between tries.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    until_s = time.monotonic() + wait_s
    while True:
        try:
            with socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S) as line:
                return url_at(str(line.getpeername()[0]), port)
        except (OSError, UnicodeError) as error:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise GroupError(_nobody(url, wait_s, error)) from None
        if select.select([interrupt_fd], [], [], min(_AGAIN_S, left_s))[0]:
            return None


def _nobody(url: str, wait_s: float, error: Exception) -> str:
    reason = reason_of(error) or type(error).__name__
    waited = f", nor in {wait_s:g} s" if wait_s else ""
    return (
        f"nobody listens at {url}{waited} ({reason}); a job does from its start to its end. See whether it runs "
        f"(`holdtrue status` on its machine), or give it time to start with --wait SECONDS."
    )
