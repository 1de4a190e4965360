"""One `run.steps` call: steps, and what each boundary between them asks for."""

import math
import sys
import time
from collections.abc import Iterator, Mapping

from holdtrue.engine import RoundResult, specialise_compiled_shapes
from holdtrue.errors import (
    GroupError,
    HoldtrueError,
    NonFiniteError,
    UsageError,
    WaitTimeoutError,
    WorkerLostError,
)
from holdtrue.record import DigestRecord
from holdtrue.units import format_ids

from ._agree import agree_on_call, agree_on_entry, check_replicas, end_interrupted, say_start
from ._boundary import enter_agreed
from ._calls import Call
from ._core import Core
from ._elastic import Regrouped
from ._feed import Feed
from ._hold import hold_if_asked
from ._keeper import Keeper
from ._notice import Notice, read_notices
from ._part import Part
from ._step import Step


class Loop:
    """The loop of one `run.steps` call on one worker.

    Args:
        core: The run.
        keeper: Its checkpoints.
        feed: What the steps read.
        call: The call.
        epochs: Times to go through the source.
        first_step: Steps of the call that were done before by other means.
    """

    def __init__(
        self, core: Core, keeper: Keeper, feed: Feed, *, call: Call, epochs: int, first_step: int = 0
    ) -> None:
        self._core, self._keeper, self._feed = core, keeper, feed
        self._call, self._epochs, self._first_step = call, epochs, first_step
        self._total: int | None = None
        self._epoch_in_call = self._step_in_epoch = 0
        self._begun = 0
        """Epochs of this call that were begun."""
        self._due: tuple[bytes, Mapping[str, str]] | None = None
        self._pass_s: list[float | None] = []
        """Seconds of each worker's passes in the present step, by rank."""
        self._part = Part(core)

    def steps(self) -> Iterator[Step]:
        """Yield the steps; between two of them is a boundary."""
        core, feed = self._core, self._feed
        if core.is_looping:
            raise UsageError(
                f"run.{self._call} began while another loop over steps was open; the position of a run is one. "
                f"Let the first loop end, or leave it by break."
            )
        core.feed = feed
        if core.calls.is_catching_up:
            self._keeper.restore()
        else:
            assert self._call.place is not None, "a loop in a loop was refused"
            core.calls.position.call, core.calls.position.call_step = self._call.place, self._first_step
            core.calls.position.step += self._first_step
        position = core.calls.position
        specialise_compiled_shapes(core.plan.numerics)
        if core.is_entering:
            agree_on_entry(core, place=self._place, steps=self._length)
        else:
            agree_on_call(core, self._call, steps=self._length)
        self._feed.change_nodes(core.engine.held)
        self._start()
        core.engine.numerics.begin_training()
        core.is_looping = True
        core.loop = self
        try:
            if self._keeper.is_over:
                self._keeper.is_over = False
                return
            yield from self._all_steps()
            self._write()
        finally:
            core.is_looping = False
            core.loop = None
            feed.close()
            position.epoch += self._begun
            position.call_step = 0

    def _all_steps(self) -> Iterator[Step]:
        core, feed = self._core, self._feed
        first = core.calls.position.epoch
        self._part = Part(core)
        for epoch in range(self._epoch_in_call, self._epochs):
            if self._is_ending():
                return
            self._begun = epoch + 1
            feed.start_epoch(first + epoch, self._step_in_epoch)
            self._keeper.restore_shards(feed)
            self._epoch_in_call = epoch
            while not self._is_ending() and feed.advance():
                yield from self._one_step(first + epoch)
                self._cross_boundary()
                hold_if_asked(core)
            if self._is_ending():
                return
            self._step_in_epoch = 0

    def _cross_boundary(self) -> None:
        """Between two steps: enter the planned view that all workers know, or even out what a loss left uneven."""
        core, group = self._core, self._core.elastic
        agreed, core.agreed = core.agreed, None
        if not enter_agreed(core, agreed, place=self._place, steps=self._length) and group is not None:
            group.make_even(core.calls.position.step)
            core.take_up_mapping()

    @property
    def _place(self) -> str:
        return f"before step {self._core.calls.position.step}"

    @property
    def _length(self) -> int | None:
        """Steps of the whole call, where the source says."""
        per_epoch = self._feed.steps_in_epoch()
        return None if per_epoch is None else per_epoch * self._epochs

    @property
    def place_in_call(self) -> tuple[int, int]:
        """Epoch of the call and step of that epoch that come next."""
        if self._feed.is_epoch_over:
            return self._epoch_in_call + 1, 0
        return self._epoch_in_call, self._step_in_epoch

    def _start(self) -> None:
        core, position = self._core, self._core.calls.position
        per_epoch = self._feed.steps_in_epoch()
        if per_epoch is None:
            self._epoch_in_call, self._step_in_epoch = self._keeper.iterable_start
            self._keeper.iterable_start = 0, 0
        else:
            self._epoch_in_call, self._step_in_epoch = divmod(position.call_step, per_epoch)
            self._total = position.step - position.call_step + per_epoch * self._epochs
            if core.settings.max_steps:
                self._total = min(self._total, core.settings.max_steps)
        self._begun = self._epoch_in_call + (self._step_in_epoch > 0)
        if not core.has_started:
            core.has_started = True
            core.outlet.start(say_start(core), self._total)
            idle = sum(1 for ids in core.mapping.held if not ids)
            if idle:
                too_many = core.mapping.world_size > core.plan.virtual_nodes
                core.outlet.say(
                    f"{core.mapping.world_size} workers for {core.plan.virtual_nodes} virtual nodes: {idle} "
                    f"{'stands by without a pass of its own' if idle == 1 else 'stand by without passes of their own'}. "
                    + ("More virtual nodes would use them." if too_many else "The mapping leaves them out.")
                )

    def _is_ending(self) -> bool:
        limit = self._core.settings.max_steps
        return self._core.wishes.is_stopping or bool(limit and self._core.calls.position.step >= limit)

    def _one_step(self, epoch: int) -> Iterator[Step]:
        core = self._core
        step = Step(core, self, index=core.calls.position.step, epoch=epoch)
        core.open_step = step.index
        core.place(f"step {step.index}")
        started = time.perf_counter()
        is_left = True
        try:
            yield step
            is_left = False
        finally:
            core.open_step = None
            # A loop that is still open when the interpreter ends is closed by its last garbage collection, and torch
            # aborts the process if a tensor is used there.
            if not core.has_failed and not step.has_failed and not sys.is_finalizing():
                self._end_step(step, time.perf_counter() - started, is_left=is_left)
        if not is_left:
            core.settle()
            self._part.rest()
        if core.wishes.interrupt_agreed:
            end_interrupted(core)

    def _end_step(self, step: Step, seconds: float, *, is_left: bool) -> None:
        """The boundary after a step, also one after which the user left the loop by break."""
        core = self._core
        try:
            if step.is_updated:
                step.check_schedules()
                self._close(step, seconds, is_left=is_left)
                if not is_left:
                    self._write_if_due()
            elif step.is_begun or not is_left:
                raise UsageError(
                    f"step {step.index} was left without step.update; its gradient would be lost. "
                    f"Call step.update(...) after the loop over the passes of every step."
                )
        except HoldtrueError as error:
            core.left_error = error
        else:
            if is_left:
                core.put_off = self._finish_left

    def _finish_left(self) -> None:
        self._core.unlike.unify_registered()
        self._keeper.write(None)

    def _write(self) -> None:
        self._keeper.write(self._feed)

    def _close(self, step: Step, seconds: float, *, is_left: bool) -> None:
        """Close a step: position, digest, record."""
        core, position, settings = self._core, self._core.calls.position, self._core.settings
        position.step += 1
        position.call_step += 1
        self._step_in_epoch += 1
        result = step.first_result
        if not is_left:
            core.unlike.unify_registered()
        digest = None
        is_final = is_left or position.step == self._total or core.wishes.is_stopping
        if settings.digest_every and (is_final or position.step % settings.digest_every == 0):
            digest = self._take_digest(step.index, result)
        core.outlet.step(
            step=step.index,
            epoch=step.epoch,
            loss=math.nan if result is None else result.loss,
            seconds=seconds,
            digest=digest,
            total_steps=self._total,
        )
        core.account.tell_progress(
            step=step.index,
            total=self._total,
            epoch=step.epoch,
            loss=math.nan if result is None else result.loss,
            seconds=seconds,
            pass_s=self._pass_s,
        )
        core.rebalancer.see_step(step.index, self._pass_s, seconds)

    def _write_if_due(self) -> None:
        # Not where the loop was left: a run that resumed here would take the steps that the break left out.
        core, every = self._core, self._core.settings.checkpoint_every
        if (every and core.calls.position.step % every == 0) or core.wishes.interrupt_agreed:
            self._write()

    def _take_digest(self, step: int, result: RoundResult | None) -> str:
        """Digest of the state after a step: recorded now, compared between workers in the next round."""
        core = self._core
        digest, entries = core.state.digest(core.calls.position.digested)
        core.last_digest = digest
        self._due = bytes.fromhex(digest), entries
        losses = inputs = None
        if core.settings.trace and result is not None:
            nodes = range(core.plan.virtual_nodes)
            losses = tuple(result.losses.get(v) for v in nodes)
            inputs = tuple(
                f"{result.fingerprints[v]:016x}" if v in result.fingerprints else None for v in nodes
            )
        core.outlet.digests(
            DigestRecord(step=step, digest=digest, entries=entries, losses=losses, inputs=inputs)
        )
        return digest

    def finish_round(self, step: Step) -> RoundResult:
        """Complete a round of `step`, with this worker's notice in its ledger."""
        core, due = self._core, self._due
        core.engine.timer.end()
        notice = Notice(
            generation=core.generation,
            planned=0 if core.elastic is None else core.elastic.agent.newest_planned,
            call=core.calls.position.call,
            step=step.index,
            wants_end=core.wishes.stop_reason is not None,
            is_interrupted=core.wishes.is_interrupted or core.must_stop,
            digest=due[0] if due else bytes(32),
            pass_s=core.engine.timer.seconds_of(step.index),
        )
        result = self._close_round(notice)
        notices = [notice] if len(result.notices) == 1 else read_notices(result.notices)
        core.agreed = notices[0].generation, min(n.planned for n in notices)
        self._due = None
        self._pass_s = [n.pass_s for n in notices]
        check_replicas(core, notices, due[1] if due else {}, step.index)
        core.wishes.is_stopping |= any(n.wants_end for n in notices)
        core.wishes.interrupt_agreed |= any(n.is_interrupted for n in notices)
        return result

    def _close_round(self, notice: Notice) -> RoundResult:
        """Complete the round.

        Raises:
            Regrouped: a worker was lost, and the group was formed anew without it.
        """
        try:
            return self._core.engine.finish_round(notice.pack())
        except (WorkerLostError, WaitTimeoutError) as error:
            if self._core.elastic is None:
                raise
            lost: GroupError = error
            error.__traceback__ = None
        self._core.elastic.recover(lost)
        raise Regrouped

    def must_skip(self, step: Step, result: RoundResult) -> bool:
        """Whether a loss that is not finite makes this step skip its update.

        Raises:
            NonFiniteError: it stops the run.
        """
        core, found = self._core, result.non_finite
        if core.settings.non_finite == "allow" or not found:
            return False
        nodes = f"virtual node{'s' if len(found) > 1 else ''} {format_ids(tuple(found))}"
        what = f"the loss of step {step.index} is {result.losses[found[0]]} in {nodes}"
        if core.settings.non_finite == "stop":
            raise NonFiniteError(
                f"{what}; a run stops there unless told otherwise. Lower the learning rate or look at these examples; "
                f"--non-finite skip leaves such updates out, --non-finite allow goes on."
            )
        core.outlet.say(f"{what}; the update is left out.")
        core.outlet.event("skipped", step=step.index, reason=what)
        return True
