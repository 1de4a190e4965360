"""Ends workers whose launcher died and that do not end by themselves: `python _guard.py WAIT_S`.

The launcher writes the process id of each worker, one a line, to its standard input, and again with a minus before it
forgets one that has ended; it holds that pipe open as long as it lives. A file of its own, run without site, which
imports nothing of holdtrue: it must live on when everything else of the job fails. Each worker leads a session; its
children are in it.
"""

import contextlib
import os
import select
import signal
import sys
import time

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Collect workers until the launcher is gone, then see to their end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a batch system may send it to every process of a step
    wait_s = float(sys.argv[1])
    workers: dict[int, int | None] = {}
    for line in sys.stdin.buffer:
        with contextlib.suppress(ValueError):
            note(workers, int(line))
    gone_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    wait_for_ends(list(workers.values()), wait_s)
    for pid, fd in workers.items():
        if fd is not None and not has_ended(fd):
            with contextlib.suppress(OSError):  # it has ended since we looked: the others must be seen to
                os.killpg(pid, signal.SIGKILL)
    for fd in workers.values():
        if fd is not None:
            os.close(fd)  # to look at what is left takes descriptors
    end_leftovers(set(workers), gone_s)


def note(workers: dict[int, int | None], pid: int) -> None:
    """Watch a worker, or forget the one with the number `-pid`."""
    if pid < 0:
        fd = workers.pop(-pid, None)
        if fd is not None:
            os.close(fd)
        return
    try:
        workers[pid] = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:  # no descriptor is free: its session is still seen to at the end
        workers[pid] = None


def wait_for_ends(pidfds: list[int | None], wait_s: float) -> None:
    """Until all processes ended, at most `wait_s` seconds; so long if there is one that cannot be watched."""
    until_s = time.monotonic() + wait_s
    for fd in pidfds:
        poll = select.poll()
        if fd is not None:
            poll.register(fd, select.POLLIN)
        poll.poll(max(0.0, until_s - time.monotonic()) * 1000)


def has_ended(pidfd: int) -> bool:
    """Whether the process is dead."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def end_leftovers(sessions: set[int], gone_s: float) -> None:
    """Kill what is left in the sessions of workers; a number that was given anew belongs to a later process."""
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            fd = os.pidfd_open(int(name))
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    # The name, in parentheses, may hold anything; the fields follow the last one.
                    fields = file.read().rpartition(b")")[2].split()
                if int(fields[3]) in sessions and int(fields[19]) / _TICKS_PER_S <= gone_s:
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            finally:
                os.close(fd)


if __name__ == "__main__":
    main()
