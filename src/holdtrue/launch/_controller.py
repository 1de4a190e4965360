"""The controller's process: started beside the workers, and again when it dies, on the same socket."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import final

from ._restarts import next_start_s

_TIE = Path(__file__).with_name("_tie_to_parent.py")


@final
class ControllerProcess:
    """Owner of the controller's process; mutable, used by the launcher's loop.

    The launcher bound the socket, so that whoever connects while there is no controller waits in the socket's
    queue for the next one. The process dies with the launcher: it has nothing to save.

    Args:
        command: Program and arguments, without secrets.
        pass_fds: Descriptors that it inherits: the listening socket among them.
        log: File to which its output is appended.
    """

    def __init__(self, command: Sequence[str], *, pass_fds: Sequence[int], log: Path) -> None:
        self._command = [sys.executable, "-I", "-S", str(_TIE), str(os.getpid()), sys.executable, *command]
        self._pass_fds = tuple(pass_fds)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths_s: list[float] = []
        self._start_at_s: float | None = None

    def start(self) -> int:
        """Start it; a pidfd that can be read once it has died, which the caller closes."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self._pass_fds,
                start_new_session=True,  # Ctrl-C on the terminal is not for it
            )
        self._start_at_s = None
        return os.pidfd_open(self._process.pid)

    def see_death(self) -> str:
        """Note that it died; what there is to say about it."""
        assert self._process is not None, "it was started"
        status = self._process.wait()
        self._process = None
        self._deaths_s.append(time.monotonic())
        self._start_at_s = next_start_s(self._deaths_s)
        if self._start_at_s is None:
            return (
                f"the controller ended {len(self._deaths_s)} times (status {status} last) and is not started again: training "
                f"goes on, and the membership cannot change any more; its log is {self._log}"
            )
        return f"the controller ended with status {status}; training goes on, and another one is started"

    @property
    def is_given_up(self) -> bool:
        """Whether it died too often to be started again."""
        return self._process is None and bool(self._deaths_s) and self._start_at_s is None

    def is_due(self, now_s: float) -> bool:
        """Whether it is time to start it again."""
        return self._start_at_s is not None and now_s >= self._start_at_s

    def close(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
