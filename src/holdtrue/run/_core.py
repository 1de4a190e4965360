"""What the parts of a run share: one mutable object with one owner, `Run`."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from holdtrue.data import set_host_streams
from holdtrue.engine import Engine, TrainingState, apply_numerics, keep_freed_memory
from holdtrue.errors import HoldtrueError, UsageError
from holdtrue.mapping import Mapping
from holdtrue.plan import Plan, stream_key
from holdtrue.record import RunDirectory
from holdtrue.reduce import Group
from holdtrue.wire import FinishedReport, JoinedReport, ReportSender

from ._calls import CallBook
from ._environment import collect_environment
from ._feed import Feed
from ._join import Membership, choose_device, connect
from ._outlet import Outlet
from ._settings import Settings


@dataclass(slots=True)
class Wishes:
    """What should end the loop at the next boundary that the workers agree on."""

    stop_reason: str | None = None
    """The script called `run.stop` here."""
    is_stopping: bool = False
    """A reduce carried someone's wish to stop."""
    is_interrupted: bool = False
    """A signal came to this process."""
    interrupt_agreed: bool = False
    """A reduce carried someone's interrupt."""


class Core:
    """Plan, place, registered objects, group and records of one worker's run."""

    def __init__(self, *, plan: Plan, settings: Settings, membership: Membership) -> None:
        self.plan, self.settings, self.membership = plan, settings, membership
        apply_numerics(plan.numerics, threads=settings.threads)
        keep_freed_memory()
        self.device = choose_device(membership, settings)
        self.mapping: Mapping = membership.mapping_of(plan)
        self.state = TrainingState()
        self.calls = CallBook()
        self.wishes = Wishes()
        self.has_failed = False
        self.has_started = False
        self.is_looping = False
        self.is_closed = False
        self.left_error: HoldtrueError | None = None
        """What is wrong with how a loop was left by break; see `settle`."""
        self.put_off: Callable[[], None] | None = None
        """What a loop that was left by break still has to do; see `settle`."""
        self.is_put_off_collective = False
        self.last_digest: str | None = None
        self.open_step: int | None = None
        """Index of the step whose body runs now."""
        self.feed: Feed | None = None
        """What the present or latest `run.steps` reads."""
        self._engine: Engine | None = None
        self._group: Group | None = None
        worker = membership.worker
        sender = (
            ReportSender(worker.report_fd) if worker is not None and worker.report_fd is not None else None
        )
        self.outlet = Outlet(is_main=membership.rank == 0, directory=None, sender=sender)

    def join(self) -> None:
        """Open the run directory (the main worker), join the group, seed the user's streams."""
        self.outlet.send(JoinedReport(rank=self.membership.rank, pid=os.getpid()))
        if self.settings.run_dir is not None and self.membership.rank == 0:
            directory = RunDirectory.create(
                self.settings.run_dir,
                plan=self.plan,
                environment=collect_environment(self.device, self.settings.threads),
                generation=self.membership.generation,
                resume=self.settings.resume,
            )
            self.outlet.directory = directory
            self.outlet.notes(directory.notes)
        self._group = connect(self.membership, self.device, self.settings)
        set_host_streams(stream_key(self.plan.seed, "user"))
        if self.device.type == "cuda":
            torch.cuda.manual_seed(self.plan.seed)

    @property
    def group(self) -> Group:
        """The workers of the present generation."""
        assert self._group is not None, "the run has not joined, or has left"
        return self._group

    @property
    def engine(self) -> Engine:
        """The engine of the present generation; built when it is first needed."""
        if self._engine is None:
            self._engine = Engine(
                plan=self.plan,
                state=self.state,
                group=self.group,
                mapping=self.mapping,
                device=self.device,
                order=self.membership.order,
                overlap=self.settings.overlap,
            )
        return self._engine

    @property
    def is_fixed(self) -> bool:
        """Whether the training state may no longer grow."""
        return self._engine is not None and (self.has_started or self.is_looping)

    def regrow(self) -> None:
        """Let the engine be built anew: an evaluation before the first step built it for fewer objects."""
        self._engine = None

    def place(self, text: str) -> None:
        """Say where in the script this worker is."""
        self.group.position = text

    def settle(self, *, alone: bool = False) -> None:
        """Say and do what a loop that was left by break has put off.

        A generator that is being closed cannot raise, and does not know whether the script goes on or
        ends by an exception; the next call of the run does.

        Args:
            alone: Whether other workers may not come here: then collective work stays put off.

        Raises:
            UsageError: a step was left without its update.
        """
        error, self.left_error = self.left_error, None
        if error is not None:
            raise error
        if alone and self.is_put_off_collective:
            return
        act, self.put_off = self.put_off, None
        if act is not None:
            act()

    def refuse_in_pass(self, what: str) -> None:
        """Refuse a collective call from within the loop over passes.

        Raises:
            UsageError: a round is open.
        """
        if self._engine is not None and self._engine.round is not None:
            raise UsageError(
                f"{what} was called in the loop over the passes of step {self._engine.round.step}; every worker makes it once, "
                f"and passes are divided among them. Call it after the `for ... in step` loop."
            )

    def describe_pass(self) -> str:
        """Which virtual node, step and examples the open pass has, as a sentence; empty outside a pass."""
        # Not `open_step`: an exception on its way out has closed the loop already.
        if (
            self._engine is None
            or self._engine.open is None
            or self._engine.round is None
            or self.feed is None
        ):
            return ""
        v = self._engine.open.virtual_node
        return f"in the pass of virtual node {v}, step {self._engine.round.step}: {self.feed.describe(v)}"

    def interrupt(self) -> bool:
        """Ask the loop to end at the next boundary with a checkpoint; False if there is none, or it was asked."""
        if not self.is_looping or self.wishes.is_interrupted:
            return False
        self.wishes.is_interrupted = True
        return True

    def close(self) -> None:
        """Leave the group and give the run directory back."""
        if self.is_closed:
            return
        self.is_closed = True
        if not self.has_failed:
            position = self.calls.position
            self.outlet.send(
                FinishedReport(rank=self.membership.rank, digest=self.last_digest, steps=position.step)
            )
        if self._group is not None:
            self._group.say_ended(has_failed=self.has_failed)
            self._group.close()
            if not self.has_failed:
                self._group.let_others_end()
            self._group = None
        self.outlet.close()
