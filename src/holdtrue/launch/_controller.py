"""The controller's process: started beside the workers, and again when it dies, on the same socket."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import final

from holdtrue.service import write_private

from ._restarts import hangs, next_start_s

_PROGRAM = ("-P", "-m", "holdtrue.elastic")  # -P: nothing in the current folder is imported
_END_WAIT_S = 3.0
TIE_TO_PARENT = Path(__file__).with_name("_tie_to_parent.py")
"""A program that becomes another one, which dies with its parent: `PYTHON -I -S TIE_TO_PARENT PARENT_PID PROGRAM ...`."""


@final
class ControllerProcess:
    """Owner of the controller's process; mutable, used by the launcher's loop.

    The launcher bound the socket, so that whoever connects while there is no controller waits in the socket's
    queue for the next one. The process dies with the launcher: it has nothing to save.

    Args:
        tokens: File with the job's tokens.
        job: File for the job's settings, written at each start.
        description: File with what hosts that join are told.
        memory: File in which it leaves what the next one must know.
        listener: The listening socket.
        log: File to which its output is appended.
    """

    def __init__(
        self,
        *,
        tokens: Path,
        job: Path,
        description: Path,
        memory: Path,
        listener: socket.socket,
        log: Path,
    ) -> None:
        self._tokens, self._job, self._description, self._memory = tokens, job, description, memory
        self._listener, self._log = listener, log
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths_s: list[float] = []
        self._start_at_s: float | None = None
        self._started_s = 0.0

    def start(self, settings: Mapping[str, object]) -> int:
        """Start it; a pidfd that can be read once it has died, which the caller closes.

        Args:
            settings: Of the job; how many controllers lived before is added.

        Raises:
            OSError: there is no room for its file or its process.
        """
        values = {**settings, "life": len(self._deaths_s)}
        write_private(self._job, json.dumps(values))
        fd = self._listener.fileno()
        files = {
            "--job": self._job,
            "--tokens": self._tokens,
            "--describe": self._description,
            "--memory": self._memory,
        }
        options = [word for pair in files.items() for word in map(str, pair)] + ["--fd", str(fd)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    str(TIE_TO_PARENT),
                    str(os.getpid()),
                    sys.executable,
                    *_PROGRAM,
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(fd,),
                start_new_session=True,  # Ctrl-C on the terminal is not for it
            )
        self._start_at_s = None
        self._started_s = time.monotonic()
        return os.pidfd_open(self._process.pid)

    def see_death(self) -> str:
        """Note that it died; what there is to say about it."""
        assert self._process is not None, "it was started"
        status = self._process.wait()
        self._process = None
        return self._count_death(f"the controller ended with status {status}")

    def see_failed_start(self, error: OSError) -> str:
        """Count a start that was not possible as a death; what there is to say about it."""
        return self._count_death(f"the controller cannot be started ({error.strerror})")

    def _count_death(self, how: str) -> str:
        self._deaths_s.append(time.monotonic())
        self._start_at_s = next_start_s(self._deaths_s)
        if self._start_at_s is None:
            return (
                f"{how}, the {len(self._deaths_s)}th time, and is not started again: the job goes on, and the membership "
                f"cannot change any more; its log is {self._log}"
            )
        return f"{how}; the job goes on, and another one is started"

    def end_if_it_hangs(self, answered_s: float | None, now_s: float) -> bool:
        """Kill it if it has not answered for too long, so that it counts as dead; whether it was killed.

        Args:
            answered_s: When it was last heard to answer; None for never.
            now_s: The time, of the same clock as `time.monotonic`.
        """
        if self._process is None or not hangs(started_s=self._started_s, answered_s=answered_s, now_s=now_s):
            return False
        self._started_s = now_s  # its end is about to be seen
        self._process.kill()
        return True

    def forgive(self, now_s: float) -> None:
        """Count its silence from now on.

        Args:
            now_s: The time, of the same clock as `time.monotonic`.
        """
        self._started_s = now_s

    @property
    def is_given_up(self) -> bool:
        """Whether it died too often to be started again."""
        return self._process is None and bool(self._deaths_s) and self._start_at_s is None

    def is_due(self, now_s: float) -> bool:
        """Whether it is time to start it again."""
        return self._start_at_s is not None and now_s >= self._start_at_s

    def close(self) -> None:
        """End it; what it has said to others is sent before."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_END_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
