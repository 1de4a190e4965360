"""The launcher's side of the guard, the process that ends workers when the launcher cannot."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import final

_PROGRAM = Path(__file__).with_name("_guard.py")


@final
class Guard:
    """A process of its own that kills workers which outlive the launcher's death by too long.

    With each worker's own watch on its life pipe, these are two independent ways not to leave an orphan.
    """

    def __init__(self, *, wait_s: float) -> None:
        """Start it.

        Args:
            wait_s: Seconds that workers have after the launcher's death.
        """
        read, write = os.pipe()  # not inheritable: workers must not hold the launcher's end
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_PROGRAM), str(wait_s)],
                stdin=read,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C on the terminal is not for it
            )
        except BaseException:
            os.close(write)
            raise
        finally:
            os.close(read)
        self._write = write

    def watch(self, pid: int) -> None:
        """See to the end of the process `pid` too."""
        with contextlib.suppress(BrokenPipeError):  # someone killed the guard; the life pipes remain
            os.write(self._write, b"%d\n" % pid)

    def forget(self, pid: int) -> None:
        """The process `pid` is about to be reaped: its number may be another's from then on."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._write, b"-%d\n" % pid)

    def close(self) -> None:
        """End the guard; all workers have ended."""
        self._process.kill()
        self._process.wait()
        os.close(self._write)
