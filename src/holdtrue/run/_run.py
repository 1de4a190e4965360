"""The user's Run: the only place where engine and membership meet."""

import hashlib
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Mapping as Dictionary
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch

from holdtrue.data import (
    IterableSource,
    open_source,
    set_host_streams,
)
from holdtrue.engine import (
    Engine,
    RoundResult,
    TrainingState,
    apply_numerics,
    newest_checkpoint,
    specialise_compiled_shapes,
    write_checkpoint,
)
from holdtrue.errors import CheckpointError, DivergenceError, NonFiniteError, UsageError
from holdtrue.mapping import Mapping
from holdtrue.plan import NumericsLevel, Plan, stream_key
from holdtrue.record import DigestRecord, RunDirectory
from holdtrue.units import format_ids
from holdtrue.wire import JoinedReport, ReportSender

from ._calls import Announcement, CallBook, check_announcements
from ._edge import EXIT_INTERRUPTED, install_edge
from ._environment import collect_environment
from ._evaluate import evaluate_chunks, predict_chunks
from ._feed import Feed, IterableFeed, MapFeed
from ._join import Membership, choose_device, connect, find_membership
from ._notice import Notice, read_notices
from ._outlet import Outlet
from ._settings import Settings, resolve_settings
from ._step import Step

T = TypeVar("T")


def init(
    *,
    virtual_nodes: int,
    global_batch_size: int,
    seed: int = 0,
    numerics: NumericsLevel = "exact",
    buffers: Dictionary[str, str] | None = None,
    weight_unit: float | None = None,
    run_dir: str | None = None,
) -> "Run":
    """Join the job that this process belongs to; alone, a run of one worker.

    Args:
        virtual_nodes: V, the fixed slices of every global batch.
        global_batch_size: B, examples in a step, at least V.
        seed: Seed of every random stream, 0 to 2**63 - 1.
        numerics: `"exact"` for equal bits under every mapping, `"fast"` for no promise about bits.
        buffers: For buffers that passes change in unlike ways: name pattern -> `mean`, `sum`, `max`, `min`,
            `first` or `per_node`.
        weight_unit: Weight of a pass whose loss is scaled by exactly 1, in items; B / V by default.
        run_dir: Folder for records and checkpoints; none are kept without it.

    Returns:
        The run. The command line, HOLDTRUE_* variables and a config file override these values.

    Raises:
        PlanError, UsageError: a value is out of its range.
        NumericsError: this version does not have the level of numerics.

    Blocks:
        Until all workers of the group have joined, at most the time-out.
    """
    plan, settings = resolve_settings(
        {
            "virtual_nodes": virtual_nodes,
            "global_batch_size": global_batch_size,
            "seed": seed,
            "numerics": numerics,
            "buffers": buffers,
            "weight_unit": weight_unit,
            "run_dir": run_dir,
        }
    )
    return Run(plan=plan, settings=settings, membership=find_membership())


class Run:
    """One worker's view of a job. Build it with `holdtrue.init`."""

    def __init__(self, *, plan: Plan, settings: Settings, membership: Membership) -> None:
        self._plan, self.settings, self.membership = plan, settings, membership
        apply_numerics(plan.numerics, threads=settings.threads)
        self._device = choose_device(membership, settings)
        self._mapping = membership.mapping_of(plan)
        self.state = TrainingState()
        self.calls = CallBook()
        self.failed = False
        self.last_digest: str | None = None
        self._engine: Engine | None = None
        self._feed: Feed | None = None
        self._step: Step | None = None
        self._is_stopping = False
        self._stop_reason: str | None = None
        self._is_interrupted = False
        self._interrupt_agreed = False
        self._is_looping = False
        self._has_started = False
        self._left_open: int | None = None
        self._due_digest: tuple[bytes, dict[str, str]] | None = None
        self._checkpoint_step = -1
        worker = membership.worker
        sender = (
            ReportSender(worker.report_fd) if worker is not None and worker.report_fd is not None else None
        )
        self.outlet = Outlet(is_main=membership.rank == 0, directory=None, sender=sender)
        self.outlet.send(JoinedReport(rank=membership.rank, pid=os.getpid()))
        self._group = None
        if not membership.in_process:
            install_edge(self)
        self._open_directory()
        self._group = connect(membership, self._device, settings)
        self._load_checkpoint()
        set_host_streams(stream_key(plan.seed, "user"))
        if self._device.type == "cuda":
            torch.cuda.manual_seed(plan.seed)

    # ---- facts ----

    @property
    def is_main(self) -> bool:
        """Whether this worker speaks for the job: logs, saves, prints."""
        return self.membership.rank == 0

    @property
    def device(self) -> torch.device:
        """The device that this worker drives."""
        return self._device

    @property
    def plan(self) -> Plan:
        """What never changes while the job lives."""
        return self._plan

    @property
    def mapping(self) -> Mapping:
        """Which worker holds which virtual nodes, now."""
        return self._mapping

    @property
    def generation(self) -> int:
        """Number of the present membership."""
        return self.membership.generation

    @property
    def engine(self) -> Engine:
        """The engine of the present generation."""
        assert self._engine is not None, "run.steps builds the engine"
        return self._engine

    # ---- registering ----

    def prepare(self, *objects: Any) -> Any:  # Any: the same objects, of the same types
        """Register models, optimizers, schedulers and scalers; models move to the device.

        Schedulers step with their optimizer, once per update; one that follows epochs belongs to
        `register`, and ReduceLROnPlateau is stepped by the script.

        Returns:
            The same objects, in the same order; one object by itself.

        Raises:
            UsageError, NumericsError: an object that does not belong, or cannot be bit-identical.
        """
        if not objects:
            raise UsageError(
                "prepare was given nothing; it takes models, optimizers, schedulers and scalers. Pass them."
            )
        if self._engine is not None:
            raise UsageError(
                "prepare was called after the first run.steps; the training state is fixed from there on. Prepare everything before."
            )
        for obj in objects:
            self.state.prepare(obj, self._device)
        return objects if len(objects) > 1 else objects[0]

    def register(self, name: str, obj: Any) -> None:  # Any: see TrainingState.register
        """Make anything else with `state_dict` and `load_state_dict` part of the training state.

        Args:
            name: Its name in digests and checkpoints.
            obj: Such as an EMA, early stopping, or a torch.Generator of the script's own.
        """
        if self._engine is not None:
            raise UsageError(
                f"register({name!r}) was called after the first run.steps; the training state is fixed from there on. "
                f"Register it before."
            )
        self.state.register(name, obj)

    # ---- training ----

    def steps(
        self,
        source: Any,  # Any: what holdtrue.data.open_source takes
        *,
        epochs: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        num_workers: int = 0,
    ) -> Iterator[Step]:
        """Global steps over a data source.

        Args:
            source: A map-style dataset, a DataLoader (its batch size is replaced by the plan's), or an
                iterable with `shard(v, V)` and `state_dict`.
            epochs: Times to go through it.
            shuffle: A new order each epoch, from the seed; for a DataLoader its own sampler decides.
            drop_last: Leave out a last batch that is smaller than the global batch size.
            collate_fn: Makes a batch of a list of examples; torch's default otherwise.
            num_workers: Processes that read ahead; 0 reads in line.

        Returns:
            An iterator of steps. Positions count over the whole run: a resumed run goes on in mid-epoch.

        Raises:
            DataError: the source cannot be divided as the plan asks.
            UsageError: the training state is not complete.
        """
        self._refuse_left_open()
        if epochs < 0:
            raise UsageError(f"epochs is {epochs}; it is a number of times, 0 or more. Pass such a number.")
        number, past = self.calls.begin("steps")
        if past or self._is_stopping:
            return iter(())
        self.state.check_complete()
        opened = self._open(source, collate_fn, num_workers, shuffle)
        self._start_engine()
        feed: Feed
        if isinstance(opened, IterableSource):
            feed = IterableFeed(
                opened,
                plan=self._plan,
                drop_last=drop_last,
                device=self._device,
                nodes=self.engine.held,
                group=self.engine.group,
            )
        else:
            feed = MapFeed(
                opened,
                plan=self._plan,
                drop_last=drop_last,
                device=self._device,
                nodes=self.engine.held,
                timeout_s=self.settings.timeout_s,
            )
        return self._loop(number, feed, epochs)

    def _open(
        self, source: Any, collate_fn: Any, num_workers: int, shuffle: bool
    ) -> Any:  # Any: see open_source
        is_loader = isinstance(source, torch.utils.data.DataLoader)
        opened = open_source(
            source,
            collate_fn=collate_fn,
            num_workers=num_workers if num_workers or not is_loader else None,
            shuffle=None if is_loader and shuffle else shuffle,
        )
        self.outlet.notes(opened.notes)
        return opened

    def _start_engine(self) -> None:
        if self._engine is not None:
            return
        assert self._group is not None
        self._engine = Engine(
            plan=self._plan,
            state=self.state,
            group=self._group,
            mapping=self._mapping,
            device=self._device,
            order=self.membership.order,
            overlap=self.settings.overlap,
        )

    def _loop(self, number: int, feed: Feed, epochs: int) -> Iterator[Step]:
        position = self.calls.position
        if self.calls.is_catching_up:
            position = self._restore(feed)
        else:
            position.call, position.call_step = number, 0
        specialise_compiled_shapes(self._plan.numerics)
        self._agree("steps", number, with_digest=not self._has_started)
        per_epoch = feed.steps_in_epoch()
        total = None if per_epoch is None else position.step - position.call_step + per_epoch * epochs
        if total is not None and self.settings.max_steps:
            total = min(total, self.settings.max_steps)
        self._announce_start(total)
        self._is_looping = True
        begun = 0
        try:
            first_epoch, first_step = (
                divmod(position.call_step, per_epoch) if per_epoch else self._iterable_start
            )
            self._iterable_start = 0, 0
            for epoch in range(first_epoch, epochs):
                begun = epoch + 1
                feed.start_epoch(position.epoch + epoch, first_step if epoch == first_epoch else 0)
                if isinstance(feed, IterableFeed) and epoch == first_epoch and self._iterable_states:
                    feed.load_states(self._iterable_states)
                    self._iterable_states = {}
                self._epoch_in_call, self._step_in_epoch = epoch, first_step if epoch == first_epoch else 0
                while not self._is_ending(position.step) and feed.advance():
                    yield from self._one_step(feed, position.epoch + epoch, total)
                if self._is_ending(position.step):
                    break
            self._end_of_call()
        finally:
            self._is_looping = False
            feed.close()
            position.epoch += begun
            position.call_step = 0

    def _is_ending(self, step: int) -> bool:
        return self._is_stopping or bool(self.settings.max_steps and step >= self.settings.max_steps)

    def _one_step(self, feed: Feed, epoch: int, total: int | None) -> Iterator[Step]:
        """Yield one step, and do what its boundary asks for when the user's body is done."""
        position = self.calls.position
        step = Step(self, feed, index=position.step, epoch=epoch)
        self._step, self._feed = step, feed
        self._place(f"step {step.index}")
        started = time.perf_counter()
        is_done = False
        try:
            yield step
            is_done = True
        finally:
            self._step = None
            if not step.is_updated:
                self._left_open = step.index
            else:
                self._close_step(step, feed, time.perf_counter() - started, total)
            if is_done:
                self._refuse_left_open()
        if self._interrupt_agreed:
            self._end_interrupted()

    def _close_step(self, step: Step, feed: Feed, seconds: float, total: int | None) -> None:
        """The boundary after a step: position, digest, record, checkpoint."""
        position = self.calls.position
        position.step += 1
        position.call_step += 1
        self._step_in_epoch += 1
        digest = None
        every = self.settings.digest_every
        if every and position.step % every == 0:
            digest = self._digest_now(step.index, step.first_result)
        loss = step.first_result.loss if step.first_result is not None else math.nan
        self.outlet.step(
            step=step.index, epoch=step.epoch, loss=loss, seconds=seconds, digest=digest, total_steps=total
        )
        every = self.settings.checkpoint_every
        if every and (position.step % every == 0 or self._interrupt_agreed):
            self._checkpoint(feed)

    def _end_of_call(self) -> None:
        if self.settings.checkpoint_every and self._feed is not None:
            self._checkpoint(self._feed)

    def _refuse_left_open(self) -> None:
        if self._left_open is not None:
            index, self._left_open = self._left_open, None
            raise UsageError(
                f"step {index} was left without step.update; its gradient would be lost. "
                f"Call step.update(...) after the loop over the passes of every step."
            )

    # ---- called by Step ----

    def fingerprint(self, batch: Any) -> int:  # Any: the user's batch
        """64-bit hash of a batch, if the run traces; else 0."""
        if not self.settings.trace:
            return 0
        found = hashlib.blake2b(digest_size=8)
        for leaf in torch.utils._pytree.tree_leaves(batch):
            if isinstance(leaf, torch.Tensor):
                found.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
                found.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            else:
                found.update(repr(leaf).encode())
        return int.from_bytes(found.digest(), "little")

    def finish_round(self, step: Step) -> RoundResult:
        """Complete a round of `step`, with the run's notice in its ledger."""
        due = self._due_digest
        notice = Notice(
            generation=self.generation,
            call=self.calls.position.call,
            step=step.index,
            wants_end=self._stop_reason is not None,
            is_interrupted=self._is_interrupted,
            digest=due[0] if due else bytes(32),
        )
        result = self.engine.finish_round(notice.pack())
        notices = read_notices(result.notices)
        self._due_digest = None
        self._check_replicas(notices, due, step.index)
        self._is_stopping |= any(n.wants_end for n in notices)
        self._interrupt_agreed = any(n.is_interrupted for n in notices)
        return result

    def _check_replicas(
        self, notices: list[Notice], due: tuple[bytes, dict[str, str]] | None, step: int
    ) -> None:
        if len({n.digest for n in notices}) == 1:
            return
        entries = due[1] if due else {}
        everyone = [
            json.loads(p)
            for p in self.engine.group.gather_bytes(json.dumps(entries).encode(), what="the digests")
        ]
        raise DivergenceError(_first_difference(everyone, f"before step {step}"))

    def must_skip(self, step: Step, result: RoundResult) -> bool:
        """Whether a loss that is not finite makes this step skip its update.

        Raises:
            NonFiniteError: it stops the run.
        """
        if self.settings.non_finite == "allow" or not result.non_finite:
            return False
        found = result.non_finite
        what = f"the loss of step {step.index} is {result.losses[found[0]]} in virtual node {format_ids(tuple(found))}"
        if self.settings.non_finite == "stop":
            raise NonFiniteError(
                f"{what}; a run stops there unless told otherwise. Lower the learning rate or look at these examples; "
                f"--non-finite skip leaves such updates out, --non-finite allow goes on."
            )
        self.outlet.say(f"{what}; the update is left out.")
        self.outlet.event("skipped", step=step.index, reason=what)
        return True

    # ---- boundary ----

    def _digest_now(self, step: int, result: RoundResult | None) -> str:
        digest, entries = self.state.digest(self.calls.position.to_dict())
        self.last_digest = digest
        self._due_digest = bytes.fromhex(digest), entries
        traced = result is not None and self.settings.trace
        nodes = range(self._plan.virtual_nodes)
        self.outlet.digests(
            DigestRecord(
                step=step,
                digest=digest,
                entries=entries,
                losses=tuple(result.losses.get(v) for v in nodes) if traced and result else None,
                inputs=tuple(
                    f"{result.fingerprints[v]:016x}" if v in result.fingerprints else None for v in nodes
                )
                if traced and result
                else None,
            )
        )
        return digest

    def _checkpoint(self, feed: Feed) -> None:
        """Write a checkpoint of this boundary, unless there is one; the main worker does, the others go on."""
        position = self.calls.position
        if position.step in (0, self._checkpoint_step) or self.settings.run_dir is None:
            return
        self._checkpoint_step = position.step
        states = self._gather_node_states(feed)
        if not self.is_main:
            return
        digest, _ = self.state.digest(position.to_dict())
        self.last_digest = digest
        state = self.state.capture() | {
            "position": position.to_dict(),
            "calls": self.calls.saved(),
            "nodes": states,
            "iterable": {"epoch": self._epoch_in_call, "step": self._step_in_epoch},
        }
        try:
            path = write_checkpoint(
                self.settings.run_dir,
                step=position.step,
                weights=self.state.weights(),
                state=state,
                plan=self._plan,
                digest=digest,
                keep=self.settings.keep_checkpoints,
                generation=self.generation,
            )
        except OSError as error:
            reason = f"the checkpoint of step {position.step} could not be written ({error.strerror}); training goes on."
            self.outlet.say(reason)
            self.outlet.event("checkpoint-failed", step=position.step, reason=reason)
            return
        self.outlet.checkpoint(position.step, str(path))

    def _gather_node_states(self, feed: Feed) -> dict[str, Any]:  # Any: values of torch.save(weights_only)
        """State that belongs to single virtual nodes, of all of them."""
        has_per_node = any(rule == "per_node" for _, rule in self._plan.buffers)
        if not has_per_node and not isinstance(feed, IterableFeed):
            return {"buffers": {}, "shards": {}}
        own = {"buffers": self.engine.buffers.per_node, "shards": feed.states()}
        merged: dict[str, Any] = {"buffers": {}, "shards": {}}
        for part in self.engine.group.gather_bytes(_to_bytes(own), what="state of single virtual nodes"):
            read = _from_bytes(part)
            merged["shards"] |= read["shards"]
            for name, values in read["buffers"].items():
                merged["buffers"].setdefault(name, {}).update(values)
        return merged

    def _load_checkpoint(self) -> None:
        self._iterable_start, self._iterable_states = (0, 0), {}
        self._epoch_in_call = self._step_in_epoch = 0
        self._loaded = None
        if not self.settings.resume or self.settings.run_dir is None:
            return
        found, refused = newest_checkpoint(self.settings.run_dir)
        self.outlet.notes(refused)
        if found is None:
            self.outlet.say(
                f"{self.settings.run_dir} has no checkpoint to resume; the run starts from its first step."
            )
            return
        self._loaded = found
        self.calls.load(found.state["position"], found.state["calls"])
        self.outlet.say(f"resuming from {found.path} at step {found.step}.")

    def _restore(self, feed: Feed) -> Any:  # Any: the Position
        """Put the checkpoint's state into the registered objects: the call it was written in is reached."""
        assert self._loaded is not None
        found, self._loaded = self._loaded, None
        position = self.calls.go_live()
        self.state.restore(found.weights, found.state)
        self._checkpoint_step = position.step
        nodes = found.state["nodes"]
        held = self.engine.held
        self.engine.buffers.per_node = {
            name: {v: value.to(self._device) for v, value in values.items() if v in held}
            for name, values in nodes["buffers"].items()
        }
        self._iterable_states = nodes["shards"]
        self._iterable_start = found.state["iterable"]["epoch"], found.state["iterable"]["step"]
        digest, _ = self.state.digest(position.to_dict())
        if digest != found.digest:
            raise CheckpointError(
                f"the state restored from {found.path} has the digest {digest[:16]}... and was saved with {found.digest[:16]}...; "
                f"an object's load_state_dict does not put back all of its state_dict. Look at what the script registers."
            )
        return position

    # ---- agreement ----

    def _agree(self, kind: str, number: int, *, with_digest: bool = False) -> None:
        """Compare notes with the other workers before a collective call.

        Raises:
            CallMismatchError, DivergenceError: they are elsewhere, or began with another model.
        """
        self._place(f"{kind} (call {number})")
        self._start_engine()
        entries: dict[str, str] = {}
        digest = ""
        if with_digest:
            digest, entries = self.state.digest(self.calls.position.to_dict())
            if self.settings.digest_every == 1 and self.calls.position.step == 0:
                self.outlet.digests(DigestRecord(step=-1, digest=digest, entries=entries))
        group = self.engine.group
        if group.world_size == 1 and self._is_interrupted:
            self._end_interrupted()
        if group.world_size == 1:
            return
        own = Announcement(
            call=number,
            kind=kind,
            generation=self.generation,
            mapping=str(self._mapping),
            plan=self._plan,
            step=self.calls.position.step,
            layout=hashlib.sha256(self.engine.layout_text().encode()).hexdigest(),
            digest=digest,
            stop=self._is_interrupted,
        )
        what = f"all workers to come to {kind} (call {number})"
        everyone = [json.loads(p) for p in group.gather_calls(own.encode(), what=what)]
        check_announcements(everyone)
        if any(a["stop"] for a in everyone):
            self._end_interrupted()
        if len({a["digest"] for a in everyone}) > 1:
            maps = [
                json.loads(p) for p in group.gather_calls(json.dumps(entries).encode(), what="the digests")
            ]
            raise DivergenceError(_first_difference(maps, "before the first step", initial=True))

    def _place(self, text: str) -> None:
        if self._group is not None:
            self._group.position = text

    def _announce_start(self, total: int | None) -> None:
        held = self._mapping.held
        devices = [
            f"{self._device.type}:{r} -> {format_ids(ids)}" if ids else f"{self._device.type}:{r} standby"
            for r, ids in enumerate(held)
        ]
        B, V = self._plan.global_batch_size, self._plan.virtual_nodes
        size = f"{B // V}" if B % V == 0 else f"{B // V}..{B // V + 1}"
        line = f"global batch {B} = {V} virtual nodes x {size} · {' · '.join(devices)} · numerics {self._plan.numerics} · seed {self._plan.seed}"
        overridden = {
            n: o
            for n, o in self.settings.origins.items()
            if o != "script" and n in ("virtual_nodes", "global_batch_size", "seed", "numerics")
        }
        if overridden:
            line += " · " + ", ".join(f"{n} from {o}" for n, o in sorted(overridden.items()))
        if not self._has_started:
            self._has_started = True
            self.outlet.start(line, total)
            idle = sum(1 for ids in held if not ids)
            if idle:
                self.outlet.say(
                    f"{len(held)} workers for {V} virtual nodes: {idle} stand by without a pass of their own. "
                    f"More virtual nodes would use them."
                )

    # ---- inference ----

    def evaluate(
        self,
        fn: Callable[..., Dictionary[str, Any]],  # Any: scalars or (scalar, weight)
        source: Any,  # Any: see steps
        *,
        batch_size: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> dict[str, float]:
        """Weighted means of what `fn` returns over a data source, every example exactly once.

        Args:
            fn: Takes a batch as the inner loop of training does; returns scalars by name, each a mean
                over the batch, or `(scalar, weight)`.
            source: A map-style dataset or DataLoader, read in its order.
            batch_size: Examples in a pass; the plan's virtual-node batch size by default.
            collate_fn: Makes a batch of a list of examples.

        Returns:
            A float64 mean by name: the same on every worker and for every mapping.

        Blocks:
            Until every worker has evaluated its share, at most the group's time-out.
        """
        self._refuse_left_open()
        number, past = self.calls.begin("evaluate")
        if past or self.calls.is_catching_up:
            return dict(self.calls.history.get(number, {}))
        opened = self._open(source, collate_fn, 0, False)
        self._agree("evaluate", number)
        result = evaluate_chunks(self, fn, opened, batch_size, number)
        self.calls.history[number] = result
        return result

    def predict(
        self,
        fn: Callable[..., T],
        source: Any,  # Any: see steps
        *,
        batch_size: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> T:
        """What `fn` returns over a data source, in its order, every example exactly once.

        Args:
            fn: Takes a batch; returns a tensor whose first axis is examples, or a nest of such tensors.
            source: A map-style dataset or DataLoader, read in its order.
            batch_size: Examples in a pass; the plan's virtual-node batch size by default.
            collate_fn: Makes a batch of a list of examples.

        Returns:
            The outputs of all passes joined along their first axis, on the CPU, on every worker.
            While a resumed run catches up, calls that were finished before give None.

        Blocks:
            Until every worker has predicted its share, at most the group's time-out.
        """
        self._refuse_left_open()
        number, past = self.calls.begin("predict")
        if past or self.calls.is_catching_up:
            return None  # type: ignore[return-value]  # said in the docstring
        opened = self._open(source, collate_fn, 0, False)
        self._agree("predict", number)
        return predict_chunks(self, fn, opened, batch_size, number)

    # ---- once per job ----

    def log(self, **values: Any) -> None:  # Any: numbers or tensors of one element
        """Record numbers of this step, once per job: metrics.jsonl and the progress line."""
        if not self.calls.is_catching_up:
            step = self._step.index if self._step is not None else max(0, self.calls.position.step - 1)
            self.outlet.log(step, {name: float(value) for name, value in values.items()})

    def print(self, *values: object) -> None:
        """Print once per job."""
        if not self.calls.is_catching_up:
            self.outlet.print(*values)

    def on_main(self, fn: Callable[..., T], *args: Any) -> T | None:  # Any: fn's own arguments
        """Call `fn` on the main worker alone, without a barrier.

        Returns:
            What `fn` returned on the main worker; None elsewhere, and while catching up.
        """
        return fn(*args) if self.is_main and not self.calls.is_catching_up else None

    def save(self, path: str) -> None:
        """Write the model as safetensors, once per job: written aside, then renamed.

        Args:
            path: The file. With several models, `.0`, `.1`, ... go before its suffix.
        """
        if not self.is_main or self.calls.is_catching_up:
            return
        weights = list(self.state.weights().values())
        for i, tensors in enumerate(weights):
            target = Path(path)
            if len(weights) > 1:
                target = target.with_name(f"{target.stem}.{i}{target.suffix}")
            target.parent.mkdir(parents=True, exist_ok=True)
            aside = target.with_name(target.name + ".part")
            own = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
            safetensors.torch.save_file(own, aside, metadata={"format": "pt"})
            aside.replace(target)

    def digest(self, what: str = "all") -> str:
        """SHA-256 of the training state, 64 hex digits: equal for every mapping and device of one type.

        Args:
            what: `"all"` for parameters, buffers, optimizers, schedulers, registered objects and position;
                `"weights"` for parameters and buffers.
        """
        if what not in ("all", "weights"):
            raise UsageError(
                f"digest was asked for {what!r}; it knows 'all' and 'weights'. Pass one of them."
            )
        return self.state.digest(self.calls.position.to_dict(), what=what)[0]

    def stop(self, reason: str) -> None:
        """End training on all workers at the same step: agreed in the next reduce.

        Args:
            reason: A sentence for the record.
        """
        if self._stop_reason is None:
            self._stop_reason = reason
            self.outlet.event("stop", step=self.calls.position.step, reason=reason)

    # ---- ends ----

    def interrupt(self) -> bool:
        """Ask the loop to end at the next boundary with a checkpoint; False if there is no loop to ask, or it was asked."""
        if not self._is_looping or self._is_interrupted:
            return False
        self._is_interrupted = True
        return True

    def _end_interrupted(self) -> None:
        position = self.calls.position
        kept = (
            f"a checkpoint is in {self.settings.run_dir}; go on with --resume."
            if self.settings.run_dir and self.settings.checkpoint_every
            else "no checkpoint was kept, since the run has no --run-dir."
        )
        self.outlet.say(f"interrupted after step {position.step - 1}; {kept}")
        self.outlet.event("interrupted", step=position.step, reason="a signal asked the run to end")
        raise SystemExit(EXIT_INTERRUPTED)

    def describe_pass(self) -> str:
        """Which virtual node, step and examples the open pass has, as a sentence; empty outside a pass."""
        if self._engine is None or self._engine.open is None or self._step is None or self._feed is None:
            return ""
        v = self._engine.open.virtual_node
        return f"in the pass of virtual node {v}, step {self._step.index}: {self._feed.describe(v)}"

    def close(self) -> None:
        """Leave the group and give the run directory back; the process may start another run."""
        if self._group is not None:
            if not self.failed:
                self._group.say_ended()
            self._group.close()
            self._group = None
        self.outlet.close()

    def _open_directory(self) -> None:
        if self.settings.run_dir is None or not self.is_main:
            return
        self.outlet.directory = RunDirectory.create(
            self.settings.run_dir,
            plan=self._plan,
            environment=collect_environment(self._device, self.settings.threads),
            generation=self.generation,
            resume=self.settings.resume,
        )
        self.outlet.notes(self.outlet.directory.notes)


def _first_difference(maps: Iterable[Dictionary[str, str]], when: str, *, initial: bool = False) -> str:
    first, *others = list(maps)
    for rank, other in enumerate(others, start=1):
        names = [
            n for n in sorted(first.keys() | other.keys(), key=_entry_order) if first.get(n) != other.get(n)
        ]
        if names:
            way_out = (
                "Look at code before run.prepare that draws without the run's seed, reads the clock, or depends on the worker."
                if initial
                else "Look for code outside the passes that changes the model or optimizer by something that differs between workers."
            )
            return (
                f"the training state of worker {rank} differs from worker 0's {when}, first in {names[0]} "
                f"({len(names)} of {len(first)} entries differ); replicas must be equal in every bit. {way_out}"
            )
    return f"the training state differs between workers {when}; replicas must be equal in every bit."


def _entry_order(name: str) -> tuple[int, str]:
    kinds = ("weights", "buffers", "optimizer", "scheduler", "scaler", "registered", "position")
    kind = name.partition("/")[0]
    return kinds.index(kind) if kind in kinds else len(kinds), name


def _to_bytes(value: Any) -> bytes:  # Any: values of torch.save(weights_only)
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _from_bytes(data: bytes) -> Any:  # Any: as above
    return torch.load(io.BytesIO(data), weights_only=True)
