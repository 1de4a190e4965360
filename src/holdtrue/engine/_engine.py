"""One step on one worker: passes of its virtual nodes, the reduction, the update.

    begin_round -> (open_pass -> backward -> close_pass) for each virtual node held -> finish_round -> update

The engine knows a group and a mapping; it does not know how workers came to be in the group.
"""

import json
import math
from collections.abc import Sequence

import torch

from holdtrue.errors import UsageError
from holdtrue.mapping import (
    Mapping,
    Tree,
    evaluate_tree,
    order_by_tree,
    order_by_worker,
)
from holdtrue.plan import Plan, stream_key
from holdtrue.reduce import GradientLayout, Group, OrderedReduce, SumMemory

from ._apply import apply_gradients
from ._buffer_family import Settlement
from ._buffers import BufferBook
from ._gradients import AccumulationWatch, BackwardOverlap, GradientTaker, Leaf
from ._ledger import FLAG_ODD_BUFFERS, FLAG_TOTALS, Ledger, PassRecord, merge_totals, numbers_of, settle
from ._modules import ModelWatch
from ._numbers import checked_number
from ._portable import PassNumerics
from ._round import OpenPass, OrderFunction, Round, RoundResult, pruned_tree, weight_of_pass
from ._state import Optimizer, TrainingState
from ._streams import PassStreams
from ._sums import BufferSums
from ._timing import make_timer

STREAMS_AHEAD = 16
"""Passes whose random streams are made ready at once."""


class Engine:
    """Runs steps on one worker of a group.

    Args:
        plan: What is computed.
        state: The registered models and optimizers.
        group: The workers.
        mapping: Who holds which virtual nodes.
        device: This worker's device.
        order: The order of additions; the tests' negative control passes another.
        overlap: Whether buckets may leave during the last backward.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        state: TrainingState,
        group: Group,
        mapping: Mapping,
        device: torch.device,
        order: OrderFunction | None = None,
        overlap: bool = True,
    ) -> None:
        self.plan, self.state, self.group, self.mapping, self.device = plan, state, group, mapping, device
        self._order = order or (order_by_worker if plan.numerics == "fast" else order_by_tree)
        self._ordered_by = mapping
        self._tree: Tree = 0
        """Order of the present round."""
        self._overlaps = overlap and group.overlaps and group.device.type == device.type
        self.streams = PassStreams(device)
        self.timer = make_timer(device, group)
        self.numerics = PassNumerics(plan.numerics, state)
        self._models = ModelWatch(state.named_modules())
        self.buffers = BufferBook(state.named_modules(), plan.buffers)
        self._may_shorten = overlap
        self._taker = GradientTaker([])
        self._versions: list[int] = []
        """How often each parameter had been written when the round began."""
        self._kinds: list[tuple[object, ...]] = []
        """Identity, dtype, shape and device of each of the taker's parameters."""
        self._watches: dict[int, AccumulationWatch] = {}
        self._watch = AccumulationWatch(self._taker)
        self._ordered_counts: tuple[int, ...] = ()
        """Examples of each virtual node in the rounds that `_tree` and `_reduce` are for."""
        self._reduces: dict[Tree, tuple[OrderedReduce, BackwardOverlap]] = {}
        self._reduce: OrderedReduce | None = None
        self._sums = BufferSums(group, self.buffers)
        self._overlap: BackwardOverlap | None = None
        self._checked_sparse: set[int] = set()
        self._keys: dict[int, int] = {}
        """Keys of the random streams of the next passes."""
        self.open: OpenPass | None = None
        self.round: Round | None = None

    @property
    def held(self) -> tuple[int, ...]:
        """Virtual nodes of this worker."""
        return self.mapping.held[self.group.rank]

    def nodes(self, counts: Sequence[int]) -> tuple[int, ...]:
        """Virtual nodes of this worker that have examples."""
        return tuple(v for v in self.held if counts[v])

    def layout_text(self) -> str:
        """The gradient layout as a text: equal on all workers of a group, or nothing may be exchanged."""
        self._refresh_parameters()
        return self._layout.describe()

    def _refresh_parameters(self) -> None:
        """Follow what the user froze, thawed or converted since the last round."""
        if self._taker.parameters and self._models.has_same_parameters():
            return
        self._models.walk()
        named = [(n, p) for n, p in self.state.named_parameters() if p.requires_grad]
        kinds: list[tuple[object, ...]] = [(id(p), p.dtype, p.shape, p.device) for _, p in named]
        if not self._taker.parameters or kinds != self._kinds:
            self._kinds = kinds
            self._taker = GradientTaker(named)
            self._layout = GradientLayout.build(self._taker.parameters)
            self._memory = SumMemory(self._layout, self._taker.parameters)
            self._forget_orders()
            self._watches.clear()
            self._checked_sparse.clear()

    def begin_round(self, *, step: int, round_: int, counts: Sequence[int]) -> None:
        """Start a round: `counts[v]` examples for each virtual node."""
        self._refresh_parameters()  # between two rounds too: GANs freeze one model while they train the other
        if self._reduce is None or counts != self._ordered_counts:
            self._choose_order(counts)
        self._reduce_now().begin()
        self._watch = self._watches.setdefault(round_, AccumulationWatch(self._taker))
        self._watch.respect_hooks()
        sizes = {n for n in counts if n}
        unit = sizes.pop() if len(sizes) == 1 else 1
        self.round = Round(
            step=step, round_=round_, counts=counts, nodes=self.nodes(counts), unit_examples=unit
        )
        self._keys = {}
        self.buffers.begin_round()
        self._versions = self._models.versions()
        self._sums.begin(self.mapping, self._tree)
        if not self.round.nodes:
            self._reduce_now().open_last(None)
        self.timer.begin(step, len(self.round.nodes))

    def _choose_order(self, counts: Sequence[int]) -> None:
        """Take up the tree and the exchange of rounds with these examples."""
        tree = pruned_tree(self._order, self._ordered_by, frozenset(v for v, n in enumerate(counts) if n))
        if tree not in self._reduces:
            reduce = OrderedReduce(
                group=self.group, layout=self._layout, tree=tree, mapping=self.mapping, memory=self._memory
            )
            self._reduces[tree] = reduce, BackwardOverlap(self._taker, reduce.buckets)
        self._tree, self._ordered_counts = tree, tuple(counts)
        self._reduce, self._overlap = self._reduces[tree]

    def _forget_orders(self) -> None:
        """The exchanges of rounds are to be built anew."""
        self._reduces.clear()
        self._reduce = None

    def open_pass(self, virtual_node: int, fingerprint: int = 0) -> None:
        """Set the random streams and buffers for one virtual node's pass."""
        work = self._round()
        self.open = OpenPass(virtual_node=virtual_node, examples=work.counts[virtual_node])
        work.fingerprints[virtual_node] = fingerprint
        if self._is_last(virtual_node):
            self._reduce_now().open_last(virtual_node)
        self.buffers.open_pass(virtual_node)
        torch.clear_autocast_cache()
        self.streams.save()
        if virtual_node not in self._keys:
            self._prepare_streams(work, virtual_node)
        self.streams.set(self._keys[virtual_node])

    def _prepare_streams(self, work: Round, virtual_node: int) -> None:
        """Make the streams of the next passes ready, this one's first."""
        at = work.nodes.index(virtual_node)
        self._keys = {
            v: stream_key(self.plan.seed, "pass", work.step, work.round_, v)
            for v in work.nodes[at : at + STREAMS_AHEAD]
        }
        self.streams.prepare(list(self._keys.values()))

    def backward(self, loss: torch.Tensor, weight: float | torch.Tensor | None) -> None:
        """Run the backward of the open pass, scaled by its weight; see `Step.backward`."""
        at, work = self._pass("step.backward"), self._round()
        if at.backward_done:
            raise UsageError(
                f"step.backward was called twice in the pass of virtual node {at.virtual_node} (step {work.step}); a pass has "
                f"one loss. Add the losses and call it once, or use one `for batch in step` for each loss."
            )
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
            found = (
                f"a tensor of shape {tuple(loss.shape)}"
                if isinstance(loss, torch.Tensor)
                else f"a {type(loss).__name__}"
            )
            raise UsageError(
                f"step.backward was given {found} in step {work.step}; it takes a loss that is one number with a gradient. "
                f"Pass the mean loss over the examples of the pass, as the loss function returned it."
            )
        at.backward_done = True
        work.losses[at.virtual_node] = settle(loss)
        weight = weight_of_pass(at.examples if weight is None else weight, work.step, at.virtual_node)
        work.weights[at.virtual_node] = weight
        if isinstance(weight, float) and weight == 0.0:
            return  # an absent leaf
        # With one virtual node there is nothing to weigh against: the plain loop's gradient, short batches included.
        scale = 1.0 if self.plan.virtual_nodes == 1 else weight / self.plan.unit
        scaled = loss if isinstance(scale, float) and scale == 1.0 else loss * scale
        for scaler in self.state.scalers:
            scaled = scaler.scale(scaled)
        self._run_backward(at, work, scaled, weight)

    def _run_backward(
        self, at: OpenPass, work: Round, scaled: torch.Tensor, weight: float | torch.Tensor
    ) -> None:
        """Backward, with the shortcuts that keep the bits, and the gradients off the parameters."""
        reduce, watch = self._reduce_now(), self._watch
        is_last = self._is_last(at.virtual_node)
        may_shorten = self._may_shorten and isinstance(weight, float) and not work.continues
        entry = reduce.pop_for(at.virtual_node) if may_shorten and watch.is_single else None
        if entry is None:
            self._taker.clear()  # what the user's own backward may have left
        else:
            self._taker.lend(entry)
            at.merged = 1
            if is_last:
                reduce.merge_last()
        overlap = self._overlap if may_shorten and self._overlaps and is_last and reduce.buckets else None
        if watch.is_single is None:
            watch.open()
        if overlap is not None:
            overlap.open(reduce.offer)
        scaled.backward()
        if overlap is not None:
            overlap.close()
        if watch.is_single is None or watch.is_counting:
            watch.close()
        if work.round_ not in self._checked_sparse:
            self._taker.refuse_sparse()
            self._checked_sparse.add(work.round_)
        self._taker.take_back()
        at.leaf = self._taker.take()

    def close_pass(self) -> None:
        """Take gradients and buffers of the pass that just ran."""
        work, at = self._round(), self._pass("the end of a pass")
        v = at.virtual_node
        if not at.backward_done:
            raise UsageError(
                f"the pass of virtual node {v} in step {work.step} ended without step.backward(loss); its examples would be "
                f"left out. Call step.backward once in every pass, and not loss.backward()."
            )
        self.open = None
        for own in work.totals.values():
            if isinstance(value := own.get(v), torch.Tensor):
                own[v] = settle(value)
        leaf: Leaf = [None] * len(self._taker.parameters) if at.leaf is None else at.leaf
        weight = work.weights[v]
        if isinstance(weight, torch.Tensor):
            leaf = [None if g is None else torch.where(weight > 0, g, torch.full_like(g, -0.0)) for g in leaf]
        if self._is_last(v):
            self._reduce_now().push_last(leaf)
        else:
            self._reduce_now().push(v, leaf, at.merged)
        self._sums.push(self.buffers.close_pass(v, at.examples / work.unit_examples))

    def _is_last(self, virtual_node: int) -> bool:
        """Whether the exchange may begin with this pass's gradients."""
        work = self._round()
        return not work.continues and virtual_node == work.nodes[-1]

    def add_total(self, name: str, value: float | torch.Tensor) -> None:
        """Add to the user's own total of the open pass; see `Step.sum`."""
        at, work = self._pass("step.sum"), self._round()
        if not isinstance(value, torch.Tensor) or value.device.type == "cpu" or value.numel() != 1:
            checked_number(
                value, call="step.sum", name=name
            )  # one on a device is not read: it would be waited for
        own = work.totals.setdefault(name, {})
        value = value.detach() if isinstance(value, torch.Tensor) else value
        own[at.virtual_node] = own[at.virtual_node] + value if at.virtual_node in own else value

    def finish_round(self, notice: bytes = b"") -> RoundResult:
        """Complete the reduction: every parameter has the step's gradient, every buffer its next value.

        Whatever it raises before the round has closed, it may be called again: nothing was changed by then,
        and the sums of this worker's passes are still there.

        Blocks:
            Until all workers have finished their passes, at most the group's time-out.
        """
        work, reduce = self._round(), self._reduce_now()
        self.timer.end()
        self.streams.restore()
        self._models.refuse_changes(self._versions, when=f"in step {work.step}")
        if work.continues:
            reduce.push_rest()
        elif not work.nodes:
            reduce.push_last([None] * len(self._taker.parameters))
        present = reduce.present()
        self._sums.start(len(work.nodes))  # behind the gradients, so that both are on their way together
        reduced = reduce.finish()
        self._sums.finish()
        # Gathers from here on, each entered when all before it is complete: the last one closes the round, and who
        # has completed it knows that nobody lacks anything else.
        ledger = self._swap_ledger(work, present, notice)
        totals = self._swap_totals(work, ledger)
        settlement = self._swap_buffers(work, ledger)
        self.round = None
        positive = frozenset(v for v, r in ledger.passes.items() if r.weight > 0)
        total_weight = self._add_up({v: ledger.passes[v].weight for v in positive})
        self._taker.put(
            reduced, ledger.present if positive else [False] * len(ledger.present), self._factor(total_weight)
        )
        if settlement is not None:
            self.buffers.settle(settlement, self._sums.result, sum(work.counts) / work.unit_examples)
        losses = {v: ledger.passes[v].loss for v in sorted(positive)}
        weighted = self._add_up({v: loss * ledger.passes[v].weight for v, loss in losses.items()})
        self._watch.end_round()
        return RoundResult(
            loss=weighted / total_weight if positive else math.nan,
            losses=losses,
            fingerprints={v: r.fingerprint for v, r in sorted(ledger.passes.items())},
            totals=totals,
            notices=ledger.notices,
        )

    def change_mapping(self, mapping: Mapping, ordered_by: Mapping) -> None:
        """Use another mapping from the next round on; the group may be another too.

        Args:
            mapping: Who holds what.
            ordered_by: The mapping that an order takes its shape from where it depends on one (level `fast`): all
                workers name the same.
        """
        assert self.round is None, "a round is open: it is taken over, not begun anew"
        self.mapping, self._ordered_by = mapping, ordered_by
        self._forget_orders()
        self._sums.forget()

    def take_over(self, mapping: Mapping) -> tuple[int, ...]:
        """Go on with the open round under the mapping of those who are left.

        The sums of this worker's passes stay as they are; the expression that the round computes does too.

        Args:
            mapping: Everyone in it holds what it held before, and perhaps more.

        Returns:
            Virtual nodes whose passes this worker runs now, ascending; then comes `finish_round` again.
        """
        work = self._round()
        kept = self._reduce_now().contributions()
        self.mapping = mapping
        self._forget_orders()
        self._sums.take_over(mapping)
        self._overlap = None
        self._reduce = OrderedReduce(
            group=self.group,
            layout=self._layout,
            tree=self._tree,
            mapping=mapping,
            eager=False,
            kept=kept,
            memory=self._memory,
        )
        self._ordered_counts = ()  # this one is for the present round alone
        work.continues = True
        work.nodes = tuple(v for v in self.nodes(work.counts) if v not in work.losses)
        return work.nodes

    def _factor(self, total_weight: float) -> float:
        return self.plan.unit / total_weight if total_weight and self.plan.virtual_nodes > 1 else 1.0

    def _add_up(self, values: dict[int, float]) -> float:
        """Sum of one number for each virtual node, in the order of the tree, in float64."""
        if not values:
            return 0.0
        tree = pruned_tree(self._order, self._ordered_by, frozenset(values))
        leaves: dict[Tree, float] = {v: value for v, value in values.items()}  # noqa: C416 - widens the key type
        return evaluate_tree(tree, leaves, lambda a, b: a + b)

    def _swap_ledger(self, work: Round, present: list[bool], notice: bytes) -> Ledger:
        ledger = Ledger(present=present)
        ledger.flags = (FLAG_ODD_BUFFERS if self.buffers.has_odd else 0) | (FLAG_TOTALS if work.totals else 0)
        for v, loss in zip(work.losses, numbers_of(work.losses.values()), strict=True):
            ledger.passes[v] = PassRecord(
                loss=loss, weight=float(work.weights[v]), fingerprint=work.fingerprints[v]
            )
        if self.mapping.world_size == 1:
            ledger.notices = [notice]
            return ledger
        held = self.mapping.held
        message = ledger.pack(notice, held[self.group.rank], max(map(len, held)))
        report, sums = self.buffers.pack_report(), self._sums.pack()
        start, stop = len(sums), len(sums) + len(report)
        messages = self.group.gather_fixed(sums + report + message, what=f"the losses of step {work.step}")
        merged = Ledger.merge([m[stop:] for m in messages], held, len(ledger.present))
        merged.reports = [m[start:stop] for m in messages]
        self._sums.see([m[:start] for m in messages])
        return merged

    def _swap_totals(self, work: Round, ledger: Ledger) -> dict[str, float]:
        if not ledger.flags & FLAG_TOTALS:
            return {}
        own = {n: {str(v): float(x).hex() for v, x in values.items()} for n, values in work.totals.items()}
        sent = self.group.gather_bytes(json.dumps(own).encode(), what=f"the totals of step {work.step}")
        merged = merge_totals([json.loads(part) for part in sent])
        return {name: self._add_up(merged[name]) for name in sorted(merged)}

    def _swap_buffers(self, work: Round, ledger: Ledger) -> Settlement | None:
        if not self.buffers.has_families and not ledger.flags & FLAG_ODD_BUFFERS:
            return None
        first = next(v for v, n in enumerate(work.counts) if n)
        reports = None
        if ledger.reports and not ledger.flags & FLAG_ODD_BUFFERS:
            reports = [self.buffers.unpack_report(packed) for packed in ledger.reports]
        return self.buffers.swap(self.group, self.mapping, self.mapping.worker_of(first), work.step, reports)

    def update(self, optimizers: Sequence[Optimizer], max_grad_norm: float | None) -> float | None:
        """Clip and apply the reduced gradient: local, the same on every worker.

        Returns:
            The total norm of the gradient before clipping, or None without `max_grad_norm`.
        """
        with self.numerics.around_update(optimizers):
            norm = apply_gradients(self.state, self.device, optimizers, max_grad_norm)
        self.discard()
        torch.clear_autocast_cache()
        return norm

    def unreduced(self, optimizers: Sequence[Optimizer]) -> list[str]:
        """Parameters with a gradient that is this worker's alone, by name or shape: the round did not take it."""
        taken = set(map(id, self._taker.parameters))
        found = [
            p
            for optimizer in optimizers
            for group in optimizer.param_groups
            for p in group["params"]
            if p.grad is not None and id(p) not in taken
        ]
        names = {id(p): repr(name) for name, p in self.state.named_parameters()} if found else {}
        return [names.get(id(p), f"of shape {tuple(p.shape)}") for p in found]

    def skip_update(self) -> None:
        """Leave parameters and buffers as they were before the round."""
        self.discard()
        self.buffers.undo()

    def discard(self) -> None:
        """Leave all parameters without gradient."""
        self._taker.clear()

    def _round(self) -> Round:
        assert self.round is not None, "no round is open"
        return self.round

    def _reduce_now(self) -> OrderedReduce:
        assert self._reduce is not None, "no round is open"
        return self._reduce

    def _pass(self, what: str) -> OpenPass:
        if self.open is None:
            raise UsageError(
                f"{what} came outside a pass; it belongs into the loop over the passes of a step. "
                f"Write `for x, y in step: ...` around it."
            )
        return self.open
