"""Ctrl-C and SIGTERM as something that a selector can wait for."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def catch_interrupts() -> Iterator[int]:
    """While open, each SIGINT and SIGTERM puts one byte into a pipe instead of acting.

    Yields:
        The read end, non-blocking. Outside the main thread, where Python delivers no signals, nothing
        ever arrives.
    """
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)
    # The handler runs between two steps of the interpreter; the byte wakes a select that is resumed.
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = (
        {number: signal.signal(number, lambda *_: _put_byte(write_fd)) for number in _SIGNALS}
        if in_main_thread
        else {}
    )
    try:
        yield read_fd
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read_fd)
        os.close(write_fd)


def _put_byte(write_fd: int) -> None:
    with suppress(BlockingIOError):  # full: more interrupts than anyone counts
        os.write(write_fd, b"!")
