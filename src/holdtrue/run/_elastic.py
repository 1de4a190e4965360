"""A group that outlives its members: the present generation's group, formed anew when the membership changes.

    gather -> what everyone said; or, after a loss that left it open, `Regrouped`: the mapping is another now

A gather is a collective in which everyone needs a message from everyone. Whoever completed one knows that all
had entered it. So after a loss the survivors are at most one gather apart, and those ahead hand over its messages.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, final

import torch

from holdtrue.elastic import Agent, View
from holdtrue.engine import StateText, copy_state
from holdtrue.errors import (
    ExpelledError,
    GroupError,
    JobOverError,
    MappingError,
    WaitTimeoutError,
    WorkerLostError,
)
from holdtrue.mapping import Mapping, even_mapping, parse_mapping, take_over_mapping
from holdtrue.reduce import Group, Pending
from holdtrue.solve import Costs
from holdtrue.units import cut_text

from ._head import Head
from ._limits import Limits, choose_fitting, keeps_limits, room_by_rank
from ._messages import join_messages, part_messages

VIEW_MARGIN_S = 15.0
"""How much longer than a time-out a worker waits for the view after a loss: the membership itself waits as long for one
that is silent, and then for its end, in seconds."""

NO_STATE = -1
"""Gathers done by a worker that has no state yet."""


SHOWN = 200
"""Characters of a mapping in a sentence."""


class Regrouped(Exception):  # noqa: N818 - no error: the caller goes on, with the new mapping
    """The group was formed anew, and nobody had completed what was being gathered."""


class Surroundings(Protocol):
    """What the group asks of the run, which alone knows of steps and states."""

    def step_in_progress(self) -> int:
        """Index of the step that is under way, or comes next."""

    def write_state(self) -> StateText:
        """This worker's whole state, for those who have none."""

    def accept_state(self, found: StateText) -> None:
        """Take the state that another worker wrote."""

    def see_view(self, view: View, rank: int, *, since_s: float) -> None:
        """The group of `view` stands, and this worker has a rank in it; the change began at `since_s` (monotonic)."""

    def say(self, sentence: str) -> None:
        """Tell whoever watches the run, once for the job."""


class Former(Protocol):
    """What makes the groups of views."""

    def form(self, view: View, rank: int) -> Group:
        """The group of a view for a rank; a GroupError if the view is void or a member does not come."""

    def give_up(self, view: View) -> None:
        """Tell those who form a view that this worker will not come."""


@final
class ElasticGroup(Group):
    """The group of an elastic worker, the same object through all generations.

    Args:
        agent: The line to the membership.
        former: Makes the groups of views.
        virtual_nodes: V of the plan.
        device: This worker's device.
        timeout_s: Bound of every wait for a view, in seconds.
        limits: What is known of the workers' memory; None for nothing.
    """

    def __init__(
        self,
        agent: Agent,
        former: Former,
        *,
        virtual_nodes: int,
        device: torch.device,
        timeout_s: float,
        limits: Limits | None = None,
    ) -> None:
        self._inner: Group | None = None
        super().__init__(rank=-1, world_size=0, device=device)
        self.agent, self._former, self._virtual_nodes, self._timeout_s = (
            agent,
            former,
            virtual_nodes,
            timeout_s,
        )
        self._limits = limits
        self.costs: Costs | None = None
        """What is known of the costs of the present view's members, where the job began from a profile."""
        self._fitting: Mapping | None = None
        """The mapping of the present view at a boundary, as its members agreed when they met."""
        self._remarks: list[str] = []
        self.surroundings: Surroundings | None = None
        self.generation = 0
        self.mapping: Mapping | None = None
        """The mapping of the present generation; the run uses it from the next safe point on."""
        self.ordered_by: Mapping | None = None
        """See `Engine.change_mapping`."""
        self.is_mapping_new = False
        """Whether the run has not taken the mapping up yet."""
        self._mapped_at = 0
        self._held: dict[int, tuple[int, ...]] = {}
        self._view: View | None = None
        self._changing_since_s = math.inf
        self._even_after: int | None = None
        """After this step the loads are made even again."""
        self._done = NO_STATE if agent.is_joiner else 0
        self._last: list[bytes] = []
        self.on_gathered: Callable[[], None] = lambda: None
        """Called after every completed gather."""

    # ---- the group of the present generation ----

    @property
    def inner(self) -> Group:
        """The present generation's group."""
        assert self._inner is not None, "this worker has not entered a group yet"
        return self._inner

    @property
    def view(self) -> View:
        """The present view."""
        assert self._view is not None, "this worker has not entered a view yet"
        return self._view

    @property
    def has_state(self) -> bool:
        """Whether this worker trains, or has been given the state of those who do."""
        return self._done != NO_STATE

    @property
    def position(self) -> str:
        """See `Group.position`."""
        return self._position

    @position.setter
    def position(self, text: str) -> None:
        self._position = text
        if self._inner is not None:
            self._inner.position = text

    def gather_calls(self, payload: bytes, *, what: str) -> list[bytes]:
        """See `Group.gather_calls`; raises `Regrouped` besides."""
        return self._gather("gather_calls", payload, what)

    def gather_bytes(self, payload: bytes, *, what: str) -> list[bytes]:
        """See `Group.gather_bytes`; raises `Regrouped` besides."""
        return self._gather("gather_bytes", payload, what)

    def gather_fixed(self, payload: bytes, *, what: str) -> list[bytes]:
        """See `Group.gather_fixed`; raises `Regrouped` besides."""
        return self._gather("gather_fixed", payload, what)

    def _gather(self, kind: str, payload: bytes, what: str) -> list[bytes]:
        if self.is_mapping_new:
            raise Regrouped
        try:
            found: list[bytes] | None = getattr(self.inner, kind)(payload, what=what)
            lost = None
        except (WorkerLostError, WaitTimeoutError) as error:
            found, lost = None, _bare(error)
        if lost is not None:
            found = self._regroup(lost)  # not in the block above: a live traceback keeps the sockets open
        if found is None:
            raise Regrouped
        self._done += 1
        self._last = found
        self.on_gathered()
        return found

    def exchange(
        self,
        output: torch.Tensor,
        input: torch.Tensor,
        output_sizes: Sequence[int],
        input_sizes: Sequence[int],
        *,
        what: str,
    ) -> Pending:
        """See `Group.exchange`."""
        return self.inner.exchange(output, input, output_sizes, input_sizes, what=what)

    def spread(self, flat: torch.Tensor, bounds: Sequence[int], *, what: str) -> Pending:
        """See `Group.spread`."""
        return self.inner.spread(flat, bounds, what=what)

    def say_ended(self, *, has_failed: bool) -> None:
        """See `Group.say_ended`."""
        if self._inner is not None:
            self._inner.say_ended(has_failed=has_failed)

    def let_others_end(self) -> None:
        """See `Group.let_others_end`."""
        if self._inner is not None:
            self._inner.let_others_end()

    def close(self) -> None:
        """See `Group.close`."""
        if self._inner is not None:
            self._inner.close()

    @property
    def overlaps(self) -> bool:
        """Whether the present generation's adapter does."""
        return self.inner.overlaps

    # ---- changes ----

    def enter_first(self) -> None:
        """A founder enters the first view, or a joiner the first that has it as a member.

        Blocks:
            Until there is such a view, at most twelve time-outs for a joiner: the others may be in a long step.
        """
        if self.agent.is_joiner:
            self.agent.say_ready()
        patience_s = self._timeout_s * (12 if self.agent.is_joiner else 1)
        view = self.agent.wait_for_view(0, timeout_s=patience_s, what="the first view")
        self._enter(view)

    def enter_planned(self, generation: int) -> bool:
        """Enter a planned view at the boundary that all agreed on; False if this worker is to leave instead.

        A worker that leaves stays until the others stand without it: if they die before, it goes on with its state.
        """
        view = self.agent.view(generation)
        if view.rank_of(self.agent.worker) is None:
            self._leave_group()
            self.generation = view.generation
            what = f"generation {generation} to stand without this worker"
            try:
                view = self.agent.wait_for_view(generation, timeout_s=self._timeout_s, what=what)
            except (ExpelledError, JobOverError, WaitTimeoutError):
                return False
        self._enter(view)
        return True

    def recover(self, error: GroupError) -> None:
        """After a collective of the present generation failed: enter the survivors' view.

        Raises:
            GroupError: the survivors cannot go on.
        """
        served = self._regroup(_bare(error))
        assert served is None, "a round that is open here was closed elsewhere"

    def make_even(self, step: int) -> None:
        """Deal the virtual nodes out evenly again, at the first boundary after a loss that all can name: `step` is done."""
        if self._even_after is not None and step > self._even_after:
            self._take_mapping(self._fitting_mapping)

    def take_up_mapping(self) -> bool:
        """Whether the mapping is new since the last call; the run takes it up now."""
        is_new, self.is_mapping_new = self.is_mapping_new, False
        return is_new

    def _enter(self, view: View) -> None:
        try:
            served = self._form_and_meet(view)
            lost = None
        except (WorkerLostError, WaitTimeoutError) as error:
            served, lost = None, _bare(error)
        if lost is not None:
            self.generation = max(self.generation, view.generation)
            served = self._regroup(lost)
        assert served is None, "nobody is behind at an agreed boundary"

    def _regroup(self, lost: GroupError) -> list[bytes] | None:
        """Report the loss and enter views until one stands.

        Returns:
            What the others got from the gather that this worker waits for; None if nobody completed it.
        """
        self._changing_since_s = min(self._changing_since_s, time.monotonic())
        while True:
            self._leave_group()
            planned = self.agent.newest_planned
            if planned > self.generation:
                self._former.give_up(self.agent.view(planned))
            step = self._run().step_in_progress()
            silent = isinstance(lost, WaitTimeoutError)
            self.agent.say_lost(self.generation, step, waited_for=str(lost), silent=silent)
            view = self._wait_for_view()
            try:
                return self._form_and_meet(view)
            except (WorkerLostError, WaitTimeoutError) as error:
                lost = _bare(error)
            self.generation = view.generation

    def _wait_for_view(self) -> View:
        what = f"the view after the loss in generation {self.generation}"
        try:
            return self.agent.wait_for_view(
                self.generation, timeout_s=self._timeout_s + VIEW_MARGIN_S, what=what
            )
        except WaitTimeoutError as error:
            # Another kind: there is no group from which this could be recovered.
            raise GroupError(str(error)) from error

    def _refuse_void(self, generation: int, what: str) -> None:
        """End a long wait in a generation that the membership has given up: its own connections may not have noticed."""
        if self.agent.newest_forced() > generation:
            raise WorkerLostError(
                f"generation {generation} is void: a newer one came while {what} was awaited."
            )

    def _leave_group(self) -> None:
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.close()

    def _form_and_meet(self, view: View) -> list[bytes] | None:
        """Form the group of a view; learn where everyone is; give those who lack something what they lack."""
        rank = view.rank_of(self.agent.worker)
        assert rank is not None, (
            f"worker {self.agent.worker} is not in the view of generation {view.generation}"
        )
        self._changing_since_s = min(self._changing_since_s, time.monotonic())
        inner = self._former.form(view, rank)
        self._inner = inner
        inner.position = self._position
        inner.on_slow_wait = lambda what: self._refuse_void(view.generation, what)
        heads = [
            Head.decode(m) for m in inner.gather_bytes(self._head().encode(), what="where every worker is")
        ]
        self.generation, self._view = view.generation, view
        self.rank, self.world_size, self.device = rank, inner.world_size, inner.device
        self._fitting = self._agree_on_fitting(view, heads, inner)
        self._adopt_mapping(view, heads)
        served = self._hand_over(inner, heads)
        if any(head.done == NO_STATE for head in heads):
            self._copy_state(inner, heads)
        self._run().see_view(view, rank, since_s=self._changing_since_s)
        self._changing_since_s = math.inf
        remarks, self._remarks = self._remarks, []  # only now is it known who speaks for the job
        for remark in remarks:
            self._run().say(remark)
        return served

    def _head(self) -> Head:
        return Head(
            done=self._done,
            step=self._run().step_in_progress(),
            mapped_at=self._mapped_at,
            held=self._held,
            ordered_by=str(self.ordered_by) if self.ordered_by else "",
            model=self._limits.own_model if self._limits is not None else "",
            place=self._limits.own_place if self._limits is not None else "",
        )

    def _hand_over(self, inner: Group, heads: Sequence[Head]) -> list[bytes] | None:
        """Those ahead give the messages of the last gather to those behind."""
        done = [head.done for head in heads if head.done != NO_STATE]
        top = max(done, default=0)
        if not done or min(done) == top:
            return None
        if min(done) < top - 1:
            raise GroupError(
                f"workers are at the gathers {sorted(set(done))} of one job; survivors are at most one apart. "
                f"This is a fault of holdtrue: please report it with the run's events.jsonl."
            )
        giver = next(rank for rank, head in enumerate(heads) if head.done == top)
        own = join_messages(self._last) if inner.rank == giver else b""
        sent = inner.gather_bytes(own, what="the messages of the last gather")[giver]
        return part_messages(sent) if self._done == top - 1 else None

    def _copy_state(self, inner: Group, heads: Sequence[Head]) -> None:
        if all(head.done == NO_STATE for head in heads):
            raise GroupError(
                "no member of the view has the state of the run; it continues from a checkpoint."
            )
        top = max(head.done for head in heads)
        # Who is behind has not done the last update yet.
        state = self._run().write_state() if self._done == top else None
        found = copy_state(inner, state, is_taker=not self.has_state, what="the state of the run")
        if found is not None:
            self._done = top
            self._run().accept_state(found)

    # ---- the mapping ----

    @property
    def _fitting_mapping(self) -> Mapping:
        assert self._fitting is not None, "this worker has not entered a view yet"
        return self._fitting

    def _agree_on_fitting(self, view: View, heads: Sequence[Head], inner: Group) -> Mapping:
        """The mapping of a view at a boundary; where it breaks a limit of memory, one that rank 0 finds for all.

        Whether it does is whole numbers, which all members find alike. Which mapping is best is not: unlike devices need
        not agree in every bit of the solver's arithmetic.
        """
        self._remarks.clear()  # of a view that was not formed
        wanted = self._mapping_of(view)
        if self._limits is None:
            return wanted
        self.costs = self._limits.costs_of(view, heads)
        if keeps_limits(wanted, self.costs):
            return wanted
        own = str(choose_fitting(wanted, self.costs)).encode() if inner.rank == 0 else b""
        found = inner.gather_bytes(own, what="a mapping that keeps the limits of memory")[0].decode()
        fitting = parse_mapping(found, self._virtual_nodes)
        if not keeps_limits(fitting, self.costs):
            self._remarks.append(
                f"the {len(view.members)} worker(s) that are left cannot hold {self._virtual_nodes} virtual nodes within "
                f"their limits of memory; the job goes on all the same, and may run out of memory. Add a device with "
                f"`holdtrue resize` or `holdtrue worker --join`."
            )
        elif view.mapping is not None:
            self._remarks.append(
                f"the mapping {cut_text(view.mapping, SHOWN)} gives a worker more than its memory holds; "
                f"{cut_text(str(fitting), SHOWN)} is used in its place."
            )
        return fitting

    def _mapping_of(self, view: View) -> Mapping:
        if view.mapping is not None:
            try:
                mapping = parse_mapping(view.mapping, self._virtual_nodes)
            except MappingError as error:  # all members read the same text, and go on, or end, alike
                if self.mapping is None and not self.agent.is_joiner:
                    raise  # what the job was started with; nothing is lost yet
                self._remarks.append(f"{error} The virtual nodes are dealt out evenly.")
            else:
                if mapping.world_size == len(view.members):
                    return mapping
        return even_mapping(self._virtual_nodes, len(view.members))

    def _adopt_mapping(self, view: View, heads: Sequence[Head]) -> None:
        """The view's mapping where everyone is at a boundary; else the newest former one, with the rest dealt out."""
        newest = max(heads, key=lambda head: head.mapped_at)
        if view.is_planned or not newest.held:
            self._take_mapping(self._fitting_mapping)
            return
        workers = list(newest.held)
        former = Mapping(self._virtual_nodes, tuple(newest.held.values()))
        ranks = [workers.index(m.worker) if m.worker in newest.held else None for m in view.members]
        ordered_by = parse_mapping(newest.ordered_by, self._virtual_nodes)
        self._take_mapping(take_over_mapping(former, ranks, has_room=room_by_rank(self.costs)), ordered_by)
        self._even_after = max(head.step for head in heads)

    def _take_mapping(self, mapping: Mapping, ordered_by: Mapping | None = None) -> None:
        self.mapping, self.ordered_by = mapping, ordered_by or mapping
        self._held = {m.worker: ids for m, ids in zip(self.view.members, mapping.held, strict=True)}
        self._mapped_at = self.generation
        self._even_after = None
        self.is_mapping_new = True

    def _run(self) -> Surroundings:
        assert self.surroundings is not None, "the run has not said what surrounds the group"
        return self.surroundings


def _bare(error: GroupError) -> GroupError:
    """The error without what keeps the frames alive, and with them the sockets of the broken group."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def gather_anew(gather: Callable[[], list[bytes]], settle: Callable[[], Any]) -> list[bytes]:
    """Gather until it succeeds, taking up the new mapping whenever the group was formed anew."""
    while True:
        try:
            return gather()
        except Regrouped:
            settle()
