"""What the parts of a run share: one mutable object with one owner, `Run`."""

import os
from dataclasses import dataclass

import torch

from holdtrue.data import set_host_streams
from holdtrue.engine import Engine, TrainingState, apply_numerics
from holdtrue.errors import UsageError
from holdtrue.mapping import Mapping
from holdtrue.plan import Plan, stream_key
from holdtrue.record import RunDirectory
from holdtrue.reduce import Group
from holdtrue.wire import JoinedReport, ReportSender

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
        self.device = choose_device(membership, settings)
        self.mapping: Mapping = membership.mapping_of(plan)
        self.state = TrainingState()
        self.calls = CallBook()
        self.wishes = Wishes()
        self.has_failed = False
        self.has_started = False
        self.is_looping = False
        self.left_open: int | None = None
        """Index of a step that was left without its update."""
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
        return self._engine is not None

    def place(self, text: str) -> None:
        """Say where in the script this worker is."""
        self.group.position = text

    def refuse_left_open(self) -> None:
        """Refuse to go on after a step that was left without its update.

        Raises:
            UsageError: there is one.
        """
        if self.left_open is not None:
            index, self.left_open = self.left_open, None
            raise UsageError(
                f"step {index} was left without step.update; its gradient would be lost. "
                f"Call step.update(...) after the loop over the passes of every step."
            )

    def describe_pass(self) -> str:
        """Which virtual node, step and examples the open pass has, as a sentence; empty outside a pass."""
        if self._engine is None or self._engine.open is None or self.open_step is None or self.feed is None:
            return ""
        v = self._engine.open.virtual_node
        return f"in the pass of virtual node {v}, step {self.open_step}: {self.feed.describe(v)}"

    def interrupt(self) -> bool:
        """Ask the loop to end at the next boundary with a checkpoint; False if there is none, or it was asked."""
        if not self.is_looping or self.wishes.is_interrupted:
            return False
        self.wishes.is_interrupted = True
        return True

    def close(self) -> None:
        """Leave the group and give the run directory back."""
        if self._group is not None:
            if not self.has_failed:
                self._group.say_ended()
            self._group.close()
            self._group = None
        self.outlet.close()
