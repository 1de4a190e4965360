"""What the parts of a run share: one mutable object with one owner, `Run`."""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol
from weakref import WeakKeyDictionary

import torch

from holdtrue.data import set_host_streams
from holdtrue.elastic import View
from holdtrue.engine import (
    Engine,
    Optimizer,
    StateText,
    TrainingState,
    apply_numerics,
    keep_freed_memory,
    warm_memory,
)
from holdtrue.errors import GroupError, HoldtrueError, UsageError
from holdtrue.mapping import Mapping
from holdtrue.numerics import close_initial
from holdtrue.plan import Plan, stream_key
from holdtrue.record import RunDirectory
from holdtrue.reduce import Group
from holdtrue.wire import FinishedReport, JoinedReport, ReportSender, describe_unknown_variables

from ._account import Account
from ._calls import CallBook
from ._elastic import ElasticGroup, Regrouped
from ._environment import collect_environment
from ._feed import Feed
from ._join import Membership, choose_device, connect
from ._mark import Mark, PassMark
from ._outlet import Outlet
from ._part import limit_memory
from ._rebalance import Rebalancer
from ._settings import Settings
from ._unlike import Unlike


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


STATE_OF_WEIGHTS = 3
"""How many times its parameters' bytes a joiner makes ready to take: themselves, and two moments for each."""


class StateKeeper(Protocol):
    """What can write the whole state of the run, and take it from another worker."""

    def write_state(self) -> StateText: ...
    def accept_state(self, found: StateText) -> None: ...


class PlaceInCall(Protocol):
    """Where the open loop over steps is."""

    @property
    def place_in_call(self) -> tuple[int, int]: ...


class Core:
    """Plan, place, registered objects, group and records of one worker's run."""

    def __init__(self, *, plan: Plan, settings: Settings, membership: Membership) -> None:
        self.plan, self.settings, self.membership = plan, settings, membership
        apply_numerics(plan.numerics, threads=settings.threads, is_training=True)
        keep_freed_memory()
        self.device = choose_device(membership, settings)
        limit_memory(self.device, settings.device_percent)
        self.mapping: Mapping = membership.mapping_of(plan)
        self.state = TrainingState()
        self.calls = CallBook()
        self.wishes = Wishes()
        self.has_failed = False
        self.is_leaving = False
        self.has_founded = False
        """Whether a first view was entered."""
        self.has_started = False
        self.is_looping = False
        self.is_predicting = False
        """Whether a prediction to disk is under way outside a loop: the ends of its rounds are boundaries too."""
        self.is_closed = False
        self.left_error: HoldtrueError | None = None
        """What is wrong with how a loop was left by break; see `settle`."""
        self.put_off: Callable[[], None] | None = None
        """What a loop that was left by break still has to do; see `settle`."""
        self.last_digest: str | None = None
        self.kept_step: int | None = None
        """Step of the newest checkpoint that this worker wrote, or went on from."""
        self.open_step: int | None = None
        """Index of the step whose body runs now."""
        self.is_updating = False
        """Whether `step.update` steps the optimizers now."""
        self.strangers = WeakKeyDictionary[Optimizer, list[int]]()
        """Optimizers that stepped in a step unprepared, and the step whose passes last gave their parameters gradients."""
        self.is_inferring = False
        """Whether an evaluation or a prediction runs passes now."""
        self.agreed: tuple[int, int] | None = None
        """(generation, newest planned view that all know) of the latest round."""
        self.is_entering = False
        """Whether this worker was given the state of the others and has not met them at a boundary yet."""
        self.keeper: StateKeeper | None = None
        self.once: list[Callable[[], None]] = []
        """What the main worker does once for the job since the last gather: another does it if the main worker dies."""
        self.account = Account(self)
        self.rebalancer = Rebalancer(self)
        self.unlike = Unlike(self)
        self.loop: PlaceInCall | None = None
        """The loop over steps that is open."""
        self.feed: Feed | None = None
        """What the present or latest `run.steps` reads."""
        self._engine: Engine | None = None
        self._group: Group | None = None
        worker = membership.worker
        self.number = worker.worker if worker is not None else max(0, membership.rank)
        """Number by which the launcher knows this worker."""
        self.mark: Mark = PassMark(worker.at_fd if worker is not None else None)
        sender = (
            ReportSender(worker.report_fd) if worker is not None and worker.report_fd is not None else None
        )
        self.outlet = Outlet(
            is_main=membership.rank == 0 and membership.agent is None, directory=None, sender=sender
        )

    def join(self) -> None:
        """Open the run directory (the main worker), join the group, seed the user's streams."""
        self.outlet.send(JoinedReport(rank=self.number, pid=os.getpid()))
        if self.membership.worker is None and not self.membership.in_process:  # else the launcher has said it
            for sentence in describe_unknown_variables(os.environ):
                self.outlet.say(sentence)
        if self.membership.agent is None and self.membership.rank == 0:
            self._open_directory(range(self.membership.world_size))  # first: it may be taken
        group = connect(self.membership, self.plan, self.device, self.settings)
        self._group = group
        if isinstance(group, ElasticGroup):
            group.surroundings = self
            group.on_gathered = self.once.clear
            if not group.agent.is_joiner:
                group.enter_first()
                self.take_up_mapping()
        set_host_streams(stream_key(self.plan.seed, "user"))
        if self.device.type == "cuda":
            torch.cuda.manual_seed(self.plan.seed)

    def _open_directory(self, workers: Sequence[int]) -> None:
        if self.settings.run_dir is None:
            return
        directory = RunDirectory.create(
            self.settings.run_dir,
            plan=self.plan,
            environment=collect_environment(self.device, self.settings.threads),
            generation=self.generation,
            resume=self.settings.resume,
            workers=workers,
        )
        self.outlet.directory = directory
        self.outlet.notes(directory.notes)

    # ---- membership ----

    @property
    def elastic(self) -> ElasticGroup | None:
        """The group, if the membership can change."""
        return self._group if isinstance(self._group, ElasticGroup) else None

    @property
    def generation(self) -> int:
        """Number of the present membership."""
        return self.membership.generation if self.elastic is None else self.elastic.generation

    @property
    def is_main(self) -> bool:
        """Whether this worker speaks for the job."""
        return self.outlet.is_main

    @property
    def must_stop(self) -> bool:
        """Whether the membership asks the job to end at the next boundary, with a checkpoint."""
        return self.elastic is not None and self.elastic.agent.stop_reason is not None

    def enter(self) -> None:
        """A joiner enters the job: at its first collective call."""
        group = self.elastic
        if group is None or group.has_state:
            return
        sizes = (p.numel() * p.element_size() for _, p in self.state.named_parameters())
        warm_memory(STATE_OF_WEIGHTS * sum(sizes))
        group.enter_first()
        self.take_up_mapping()

    def take_up_mapping(self) -> tuple[int, ...]:
        """Use the group's new mapping, if it has one.

        Returns:
            Virtual nodes whose passes this worker runs in the round that is open.
        """
        group = self.elastic
        if group is None or not group.take_up_mapping():
            return ()
        assert group.mapping is not None
        assert group.ordered_by is not None
        self.mapping = group.mapping
        nodes: tuple[int, ...] = ()
        if self._engine is not None and self._engine.round is not None:
            nodes = self._engine.take_over(self.mapping)
        elif self._engine is not None:
            self._engine.change_mapping(self.mapping, group.ordered_by)
        if self.feed is not None and self.is_looping:
            self.feed.change_nodes(self.engine.held)
        return nodes

    def say(self, sentence: str) -> None:
        """See `Surroundings`."""
        self.outlet.say(sentence)

    def step_in_progress(self) -> int:
        """See `Surroundings`."""
        return self.calls.position.step

    def write_state(self) -> StateText:
        """See `Surroundings`."""
        assert self.keeper is not None
        return self.keeper.write_state()

    def accept_state(self, found: StateText) -> None:
        """See `Surroundings`."""
        assert self.keeper is not None
        self.keeper.accept_state(found)
        self.is_entering = True

    def see_view(self, view: View, rank: int, *, since_s: float) -> None:
        """See `Surroundings`: this worker may speak for the job from now on, and records why the membership changed."""
        assert self.elastic is not None
        was_main, is_founding = self.outlet.is_main, not self.has_founded
        self.outlet.is_main, self.has_founded = rank == 0, True
        if self.outlet.is_main and is_founding and not self.elastic.agent.is_joiner:
            self._open_directory([m.worker for m in view.members])
        elif self.outlet.is_main and not was_main:
            self._take_over_directory(view)
        if self.outlet.directory is not None:
            self.outlet.directory.generation = view.generation
        seconds = time.monotonic() - since_s
        is_told = not is_founding or self.elastic.agent.is_joiner
        self.account.see_view(self.elastic, view, seconds=seconds, is_told=is_told)
        self.rebalancer.see_view(view, seconds=seconds)
        self.elastic.agent.say_entered(view.generation, self.step_in_progress(), seconds=seconds)

    def _take_over_directory(self, view: View) -> None:
        """The main worker left or died: its folder and its unfinished tasks are this worker's now."""
        if self.settings.run_dir is not None:
            try:
                directory = RunDirectory.take_over(self.settings.run_dir, generation=view.generation)
            except OSError as error:
                self.outlet.say(
                    f"the run directory {self.settings.run_dir} could not be taken over ({error.strerror}); "
                    f"the run goes on without records."
                )
            else:
                self.outlet.take_over(directory)
        for act in self.once:
            act()
        self.once.clear()

    def leave(self) -> NoReturn:
        """End this process: a planned view is without it, and the others have gone on."""
        assert self.elastic is not None
        self.has_failed = True  # nothing is reported as finished, and nobody waits
        self.outlet.close()
        self.elastic.agent.say_end(how="left")
        raise SystemExit(0)

    @property
    def group(self) -> Group:
        """The workers of the present generation."""
        if self._group is None:
            self.refuse_closed("a step of the loop")
        assert self._group is not None, "the run has not joined"
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

    def settle(self) -> None:
        """Say and do what a loop that was left by break has put off.

        A generator that is being closed cannot raise, and does not know whether the script goes on or
        ends by an exception; the next call of the run does.

        Raises:
            UsageError: a step was left without its update.
        """
        error, self.left_error = self.left_error, None
        if error is not None:
            raise error
        act, self.put_off = self.put_off, None
        if act is not None:
            act()

    def refuse_closed(self, what: str) -> None:
        """Refuse a call that needs the group.

        Raises:
            UsageError: the run was closed.
        """
        if self.is_closed:
            raise UsageError(
                f"{what} came after run.close; this worker has left its group. Close the run after it, or begin another with "
                f"holdtrue.init."
            )

    def refuse_in_pass(self, what: str) -> None:
        """Refuse a collective call from within the loop over passes.

        Raises:
            UsageError: a round is open, or the run was closed.
        """
        self.refuse_closed(what)
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

    @property
    def has_boundaries(self) -> bool:
        """Whether what the run does now comes to a boundary, where it can end in order."""
        return self.is_looping or self.is_predicting

    @property
    def next_boundary(self) -> str:
        """The boundary that comes next, in words."""
        if self.is_predicting:
            return "the end of the present round of its prediction"
        return "the next step boundary"

    def interrupt(self) -> bool:
        """Ask the run to end at the next boundary, keeping what is done; False if there is none, or it was asked."""
        if not self.has_boundaries or self.wishes.is_interrupted:
            return False
        self.wishes.is_interrupted = True
        return True

    @property
    def is_in_group(self) -> bool:
        """Whether other workers may count on this process."""
        return self.membership.world_size > 1 or self.elastic is not None

    def offer_to_leave(self, why: str = "it was sent SIGTERM") -> bool:
        """Say that this worker wants to leave, after SIGTERM say; False if it is no elastic worker before a boundary.

        A second SIGTERM says nothing new: a batch system sends one to every process of a step, and the worker's host
        then sends its own. It is no wish to end the others.
        """
        group = self.elastic
        if group is None or self.is_closed or not self.has_boundaries:
            return False
        if self.is_leaving:
            return True
        self.is_leaving = True
        # A signal handler may have interrupted the holder of the agent's lock: another thread waits for it.
        threading.Thread(target=group.agent.say_leaving, args=(why,), name="leave", daemon=True).start()
        return True

    def leaves_without_host(self, wait_s: float) -> bool:
        """After the death of a host that is not the launcher: leave, and let the others go on; False if nobody hears it.

        Blocks:
            Until the controller can be reached, at most `wait_s`: it may be about to be started again.
        """
        if self.elastic is None or not self.elastic.agent.is_heard(wait_s):
            return False
        return self.offer_to_leave("its host is gone")

    def tell_failure(self, sentence: str) -> None:
        """Tell the membership that this worker's script has failed: the job fails with it.

        A newcomer that has not yet shown that it does what the others do fails alone.
        """
        if self.elastic is None or self.is_closed:
            return
        at = self._engine.open if self._engine is not None else None
        node = None if at is None else at.virtual_node
        step = self.calls.position.step
        how = "refused" if self.is_entering else "failed"
        self.elastic.agent.say_end(how=how, sentence=sentence, virtual_node=node, step=step)

    def close(self) -> None:
        """Leave the group and give the run directory back."""
        if self.is_closed:
            return
        self.is_closed = True
        close_initial()  # where no loop over steps has: a run may evaluate alone
        if not self.has_failed:
            position = self.calls.position
            self.outlet.send(FinishedReport(rank=self.number, digest=self.last_digest, steps=position.step))
        if self.elastic is not None and not self.has_failed:
            self._end_together(self.elastic)
        if self._group is not None:
            self._group.say_ended(has_failed=self.has_failed)
            self._group.close()
            if not self.has_failed:
                self._group.let_others_end()
            self._group = None
        self.outlet.close()

    def _end_together(self, group: ElasticGroup) -> None:
        """Wait for the others at the end of the script: if the main worker died in its last task, another does it."""
        if not group.has_state:
            return
        if self.is_entering:
            sentence = (
                "the script of this worker ended before it came to where the job is; a worker that joins runs the job's script, "
                "with the same data. The job goes on without it."
            )
            sys.stderr.write(f"holdtrue: {sentence}\n")  # not by the outlet: that is the main worker's
            group.agent.say_end(how="refused", sentence=sentence)
            return
        self.place("the end of the script")
        while group.world_size > 1:
            try:
                group.gather_calls(b"", what="all workers to come to the end of the script")
                break
            except Regrouped:
                self.take_up_mapping()
            except GroupError as error:
                self.outlet.say(f"not every worker came to the end of the script: {error}")
                break
        group.agent.say_end(how="finished")
