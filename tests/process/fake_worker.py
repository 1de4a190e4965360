"""What the scripts of the launcher's tests import: a worker without an engine."""

import os
import signal
import sys
from typing import NoReturn

from holdtrue import wire

found = wire.WorkerEnvironment.from_env(os.environ)
assert found is not None
worker: wire.WorkerEnvironment = found
assert worker.report_fd is not None
assert worker.life_fd is not None
life_fd: int = worker.life_fd
sender = wire.ReportSender(worker.report_fd)


def join() -> None:
    """What `holdtrue.init` reports."""
    sender.send(wire.JoinedReport(rank=worker.rank, pid=os.getpid()))


def say(text: str) -> None:
    """Something that the tests wait for."""
    sender.send(wire.MessageReport(text=text))


def wait_for_the_launcher_to_go() -> None:
    """Block until the launcher is gone, or a signal ends the process."""
    while os.read(life_fd, 1):
        pass


def expect_sigterm() -> None:
    """Keep SIGTERM for `wait_politely` or `wait_deafly`: a handler could run just before a call that blocks."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def wait_politely() -> NoReturn:
    """At SIGTERM write a checkpoint and exit with 130, as a worker does at its step boundary."""
    signal.sigwait({signal.SIGTERM})
    sender.send(wire.CheckpointReport(step=41, path="checkpoints/step-00000041"))
    sys.exit(130)


def wait_deafly() -> NoReturn:
    """At SIGTERM only say that it was heard."""
    while True:
        signal.sigwait({signal.SIGTERM})
        say("heard and ignored")
