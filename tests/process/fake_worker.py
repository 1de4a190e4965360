"""What the scripts of the launcher's tests import: a worker without an engine."""

import os
import signal
import struct
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

from holdtrue import wire
from holdtrue.elastic import ControllerAgent
from holdtrue.errors import ExpelledError, JobOverError

found = wire.WorkerEnvironment.from_env(os.environ)
assert found is not None
worker: wire.WorkerEnvironment = found
assert worker.report_fd is not None
assert worker.life_fd is not None
life_fd: int = worker.life_fd
sender = wire.ReportSender(worker.report_fd)


agent: ControllerAgent | None = None
OVER = 2**61
"""Beyond any generation: what an agent says of forced views once its worker is no member any more."""


def join() -> ControllerAgent | None:
    """What `holdtrue.init` reports; in an elastic job, also enters the first view, and gives the agent."""
    global agent
    sender.send(wire.JoinedReport(rank=worker.worker, pid=os.getpid()))
    if worker.is_elastic:
        agent = connect_agent()
        view = agent.wait_for_view(0, timeout_s=60.0, what="a first view")
        agent.say_entered(view.generation, 0, seconds=0.0)
    return agent


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
    if agent is not None:
        agent.say_end(how="interrupted")
    sys.exit(130)


def wait_deafly() -> NoReturn:
    """At SIGTERM only say that it was heard."""
    while True:
        signal.sigwait({signal.SIGTERM})
        say("heard and ignored")


def be_elastic(*, steps: int = 1_000_000, step_s: float = 0.02) -> NoReturn:
    """Take part in an elastic job as a worker does, but for the training: each enters a view when it hears of it.

    SIGTERM is a wish to leave. Ends with 0 after so many steps, with 130 where the job is stopped.
    """
    sender.send(wire.JoinedReport(rank=worker.worker, pid=os.getpid()))
    try:
        agent = connect_agent()
        signal.signal(signal.SIGTERM, lambda *_: agent.say_leaving("SIGTERM"))
        if agent.is_joiner:
            agent.say_ready()
        view = agent.wait_for_view(0, timeout_s=60.0, what="a first view")
    except (JobOverError, ExpelledError) as error:
        kind = type(error).__name__
        sender.send(wire.FailedReport(rank=worker.worker, kind=kind, sentence=str(error)))
        sys.exit(1)
    step = 0 if not agent.is_joiner else 1
    agent.say_entered(view.generation, step, seconds=0.0)
    say(f"entered {worker.worker} generation {view.generation} pid {os.getpid()}")
    threading.Thread(target=watch_launcher, daemon=True).start()
    while step < steps:
        write_at(1, step, 0, worker.worker)
        time.sleep(step_s)
        write_at(0, step, 0, 0)
        step += 1
        if view.rank_of(worker.worker) == 0:
            sender.send(wire.StepReport(step=step - 1, epoch=0, loss=0.5, total_steps=None))
            agent.say_progress({"step": step, "loss": 0.5})
        if agent.stop_reason is not None:
            sender.send(wire.CheckpointReport(step=step, path=f"checkpoints/step-{step:08}"))
            agent.say_end(how="interrupted")
            sys.exit(130)
        newest = max(agent.newest_planned, agent.newest_forced())
        if newest > view.generation:
            is_over = newest > OVER
            view = view if is_over else agent.view(newest)
            if is_over or view.rank_of(worker.worker) is None:
                agent.say_end(how="left")
                sys.exit(0)
            agent.say_entered(view.generation, step, seconds=0.0)
            say(f"entered {worker.worker} generation {view.generation} pid {os.getpid()}")
    sender.send(wire.FinishedReport(rank=view.rank_of(worker.worker) or 0, digest="ab" * 32, steps=step))
    agent.say_end(how="finished")
    sys.exit(0)


def connect_agent() -> ControllerAgent:
    """This worker's line to the controller, welcomed."""
    assert worker.controller_url is not None
    assert worker.token_file is not None
    agent = ControllerAgent(
        url=worker.controller_url,
        token=Path(worker.token_file).read_text(),
        worker=worker.worker,
        host=worker.store_host,
        port=worker.store_port,
        device=worker.device,
    )
    agent.start(timeout_s=30.0)
    return agent


def write_at(flag: int, step: int, round_: int, virtual_node: int) -> None:
    """Say where this worker is, as the engine does at each pass."""
    assert worker.at_fd is not None
    os.pwrite(worker.at_fd, struct.pack("<4q", flag, step, round_, virtual_node), 0)


def watch_launcher() -> None:
    """End as a worker does when the launcher is gone."""
    wait_for_the_launcher_to_go()
    wire.redirect_output(worker.log_file, worker.output_fds)
    os.write(1, b"the launcher is gone\n")
    os._exit(1)
