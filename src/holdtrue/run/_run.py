"""The user's Run: the only place where engine and membership meet."""

import json
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Dictionary
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

import torch

from holdtrue.errors import UsageError
from holdtrue.mapping import Mapping
from holdtrue.plan import NumericsLevel, Plan

from ._agree import agree_on_call, agree_on_entry
from ._calls import Call
from ._checks import json_text, numbers_by_name, path_of_file, whole_number
from ._core import Core
from ._edge import install_edge, join_launcher, watch_run
from ._elastic import gather_anew
from ._evaluate import evaluate_chunks
from ._identity import named_texts
from ._join import Membership, find_membership, is_placed
from ._keeper import Keeper
from ._loop import Loop
from ._outputs import Outputs, outputs_if_whole
from ._predict import predict_chunks
from ._rounds import Prediction
from ._saving import place_file, save_models
from ._settings import Settings, resolve_settings
from ._sources import make_feed, open_for
from ._step import Step, refuse_own_steps

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
        virtual_nodes: V, the fixed slices of every global batch, 1 to 2**20.
        global_batch_size: B, examples in a step, at least V.
        seed: Seed of every random stream, 0 to 2**63 - 1.
        numerics: `"exact"` for equal bits under every mapping on devices of one type, `"portable"` on unlike x86 processors
            too, `"fast"` for no promise about bits.
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
    if not is_placed():
        install_edge()
    membership = find_membership()
    if not membership.in_process:
        install_edge()
        join_launcher(membership.worker)
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
    return Run(plan=plan, settings=settings, membership=membership)


class Run:
    """One worker's view of a job. Build it with `holdtrue.init`."""

    def __init__(self, *, plan: Plan, settings: Settings, membership: Membership) -> None:
        self._core = Core(plan=plan, settings=settings, membership=membership)
        if not membership.in_process:
            watch_run(self._core)
        refuse_own_steps(self._core)
        self._keeper = Keeper(self._core)
        self._core.keeper = self._keeper
        self._core.join()
        self._keeper.find()

    # ---- facts ----

    @property
    def is_main(self) -> bool:
        """Whether this worker speaks for the job: logs, saves, prints."""
        return self._core.is_main

    @property
    def device(self) -> torch.device:
        """The device that this worker drives."""
        return self._core.device

    @property
    def plan(self) -> Plan:
        """What never changes while the job lives."""
        return self._core.plan

    @property
    def mapping(self) -> Mapping:
        """Which worker holds which virtual nodes, now."""
        return self._core.mapping

    @property
    def generation(self) -> int:
        """Number of the present membership."""
        return self._core.generation

    @property
    def is_trial(self) -> bool:
        """Whether `holdtrue verify` runs the script: files of the user are then to be left alone."""
        return self._core.settings.trace

    @property
    def is_ending(self) -> bool:
        """Whether no step follows: training was stopped, or all steps that were asked for are begun.

        Known on every worker alike, from `step.update` on.
        """
        core, limit = self._core, self._core.settings.max_steps
        begun = core.calls.position.step + (core.open_step is not None)
        return core.wishes.is_stopping or bool(limit and begun >= limit)

    @property
    def resumed_step(self) -> int | None:
        """The step that a run which goes on with `--resume` has next at its start; None for a new run."""
        return self._keeper.resumed_step

    @property
    def is_closed(self) -> bool:
        """Whether this worker has left the group; the process may then start another run."""
        return self._core.is_closed

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
        if self._core.is_fixed:
            raise UsageError(
                "prepare was called after the first run.steps; the training state is fixed from there on. "
                "Prepare everything before."
            )
        self._core.regrow()
        for obj in objects:
            self._core.state.prepare(obj, self._core.device)
        return objects if len(objects) > 1 else objects[0]

    def register(self, name: str, obj: Any) -> None:  # Any: see TrainingState.register
        """Make anything else with `state_dict` and `load_state_dict` part of the training state.

        Args:
            name: Its name in digests and checkpoints.
            obj: Such as an EMA, early stopping, or a torch.Generator of the script's own. The buffers of a module, such as a
                teacher, are kept as those of models are.
        """
        if self._core.is_fixed:
            raise UsageError(
                f"register({name!r}) was called after the first run.steps; the training state is fixed from there on. "
                f"Register it before."
            )
        self._core.regrow()
        self._core.state.register(name, obj)

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
        first_step: int = 0,
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
            first_step: Steps that were done before by other means, such as the checkpoint of another
                library that the script has loaded: the loop begins after them, as if it had done them.

        Returns:
            An iterator of steps. Positions count over the whole run: a resumed run goes on in mid-epoch.

        Raises:
            DataError: the source cannot be divided as the plan asks.
            UsageError: the training state is not complete; a number is none; the run is closed.
        """
        core = self._core
        core.refuse_in_pass("run.steps")
        core.settle()
        core.enter()
        epochs = whole_number("epochs", epochs, least=0, what="times")
        first_step = whole_number("first_step", first_step, least=0, what="steps")
        call = core.calls.begin("steps", is_in_loop=core.is_looping)
        if call.is_past or core.wishes.is_stopping:
            return iter(())
        core.state.check_complete()
        opened = open_for(core, source, collate_fn, num_workers=num_workers, shuffle=shuffle)
        feed = make_feed(core, opened, drop_last=drop_last, first_step=first_step)
        return Loop(core, self._keeper, feed, call=call, epochs=epochs, first_step=first_step).steps()

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

        Raises:
            UsageError: the function returns something else; `batch_size` is not positive.
        """
        self._core.refuse_in_pass("run.evaluate")
        self._core.settle()
        self._core.enter()
        call = self._core.calls.begin("evaluate", is_in_loop=self._core.is_looping)
        if call.is_past or self._core.calls.is_catching_up:
            return dict(self._core.calls.recall(call) or {})
        opened = open_for(self._core, source, collate_fn)  # read unshuffled; a sampler stays in force
        agree_on_call(self._core, call)
        result = evaluate_chunks(self._core, fn, opened, batch_size, call.number)
        self._core.calls.keep(call, result)
        return result

    @overload
    def predict(
        self,
        fn: Callable[..., T],
        source: Any,
        *,
        batch_size: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pad_value: float | None = None,
        out: None = None,
    ) -> T: ...

    @overload
    def predict(
        self,
        fn: Callable[..., Any],
        source: Any,
        *,
        batch_size: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pad_value: float | None = None,
        out: str,
        identity: Dictionary[str, str] | None = None,
    ) -> Outputs: ...

    def predict(
        self,
        fn: Callable[..., T],
        source: Any,  # Any: see steps
        *,
        batch_size: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pad_value: float | None = None,
        out: str | None = None,
        identity: Dictionary[str, str] | None = None,
    ) -> T | Outputs:
        """What `fn` returns over a data source, in its order, every example exactly once.

        Args:
            fn: Takes a batch; returns a tensor whose first axis is examples, or a nest of such tensors.
            source: A map-style dataset or DataLoader, read in its order.
            batch_size: Examples in a pass; the plan's virtual-node batch size by default.
            collate_fn: Makes a batch of a list of examples.
            pad_value: Fills up outputs of unlike lengths in a later axis to the longest; without it that is an error.
            out: A folder to write outputs into while they come, so that they need not fit in memory. A call
                that was cut off goes on there: the same call again computes what is missing. Outside a loop
                workers may also join and leave meanwhile, between two rounds of about two seconds.
            identity: With `out`, what outputs depend on and the run does not see, as texts by name, such as a digest of code:
                a folder with others is refused. One named `data` takes the place of the run's own look at the data.

        Returns:
            The outputs of all passes joined along their first axis, on the CPU, on every worker; with
            `out`, an `Outputs` that reads them from disk in the order of the data set. While a resumed run
            catches up, calls that were finished before give None, or the `Outputs` that are in `out`.

        Blocks:
            Until every worker has predicted its share (with `out`, of each round), at most the group's time-out.

        Raises:
            UsageError: the function returns something else, or another structure for another batch; `batch_size` is not
                positive; `out` holds another prediction, or the workers do not share it; `identity` is not texts by name.
            CallMismatchError: with `out`, workers have other data, as far as that is seen, or other options.
        """
        self._core.refuse_in_pass("run.predict")
        given = named_texts(identity, out)
        self._core.settle()
        self._core.enter()
        call = self._core.calls.begin("predict", is_in_loop=self._core.is_looping)
        if out is not None:
            return self._predict_to_disk(call, fn, source, batch_size, collate_fn, pad_value, out, given)  # type: ignore[return-value]  # said in the docstring
        if call.is_past or self._core.calls.is_catching_up:
            return None  # type: ignore[return-value]  # said in the docstring
        opened = open_for(self._core, source, collate_fn)  # read unshuffled; a sampler stays in force
        agree_on_call(self._core, call)
        outputs: T = predict_chunks(self._core, fn, opened, batch_size, call.number, pad_value)
        return outputs

    def _predict_to_disk(
        self,
        call: Call,
        fn: Callable[..., Any],
        source: Any,  # Any: see steps
        batch_size: int | None,
        collate_fn: Callable[[list[Any]], Any] | None,
        pad_value: float | None,
        out: str,
        identity: Dictionary[str, str],
    ) -> Outputs | None:
        core = self._core
        if call.is_past:
            return outputs_if_whole(out)
        opened = open_for(core, source, collate_fn)
        is_entering = core.is_entering
        number = call.number
        if is_entering:  # the others are in the middle of it
            self._keeper.restore_in_call()
            number = core.calls.present_number
            agree_on_entry(core, place=f"in predict (call {number})", call=number)
        else:
            if call.place is not None:
                core.calls.position.call = call.place
            agree_on_call(core, call)
        prediction = Prediction(
            core, fn, opened, batch_size, number=number, pad_value=pad_value, out=out, identity=identity
        )
        return prediction.run(is_entering=is_entering)

    def share(self, value: Any) -> Any:  # Any: JSON values
        """The main worker's `value`, on every worker: what one of them alone knows, such as a name it chose.

        Args:
            value: What JSON has: texts, numbers, booleans, None, lists, and dicts with texts as keys.

        Returns:
            The main worker's, as JSON gives it back. A resumed run gets what the first one got, outside loops.

        Blocks:
            Until every worker is here, at most the group's time-out.
        """
        core = self._core
        core.refuse_in_pass("run.share")
        core.settle()
        core.enter()
        call = core.calls.begin("share", is_in_loop=core.is_looping)
        if call.is_past or core.calls.is_catching_up:
            return core.calls.recall(call)
        agree_on_call(core, call)
        text, what = json_text("run.share", value).encode(), f"the values of share (call {call.number})"
        sent = gather_anew(lambda: core.group.gather_bytes(text, what=what), core.take_up_mapping)
        shared = json.loads(sent[0])
        core.calls.keep(call, shared)
        return shared

    # ---- once per job ----

    def log(self, **values: Any) -> None:  # Any: numbers or tensors of one element
        """Record numbers of this step, once per job: metrics.jsonl and the progress line.

        Raises:
            UsageError: a value is not one number.
        """
        if not self._core.calls.is_catching_up:
            step = self._core.open_step
            if step is None:
                step = max(0, self._core.calls.position.step - 1)
            self._core.outlet.log(step, numbers_by_name("run.log", values))

    def print(self, *values: object) -> None:
        """Print once per job."""
        if not self._core.calls.is_catching_up:
            self._core.outlet.print(*values)

    def on_main(self, fn: Callable[..., T], *args: Any) -> T | None:  # Any: fn's own arguments
        """Call `fn` on the main worker alone, without a barrier: what it returns there, None elsewhere and while catching up."""
        return fn(*args) if self.is_main and not self._core.calls.is_catching_up else None

    def save(self, path: str) -> None:
        """Write the model as safetensors, once per job: written aside, then renamed.

        Args:
            path: The file. With several models, `.0`, `.1`, ... go before its suffix. Under
                `holdtrue verify` it goes into the trial's own folder: a check overwrites nothing.
        """
        path_of_file("run.save", path)
        self._core.settle()
        if self._core.calls.is_catching_up:
            return
        if self.is_main:
            save_models(self._core, path)
        elif self._core.elastic is not None:
            self._core.once.append(partial(save_models, self._core, path))

    def path_for(self, path: str | Path) -> Path:
        """Where a file that the script names belongs: under `holdtrue verify` in the trial's own folder, else where it says.

        Args:
            path: A file or folder.
        """
        return place_file(self._core, path)

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
        self._core.settle()
        return self._core.state.digest(self._core.calls.position.digested, what=what)[0]

    def stop(self, reason: str) -> None:
        """End training on all workers at the same step: agreed in the next reduce.

        It ends the whole run's training: later `run.steps` calls give nothing. To end one loop only,
        leave it by `break` at a step that is the same on all workers.

        Args:
            reason: A sentence for the record.
        """
        if self._core.wishes.stop_reason is None:
            self._core.wishes.stop_reason = reason
            self._core.outlet.event("stop", step=self._core.calls.position.step, reason=reason)

    def close(self) -> None:
        """Leave the group and give the run directory back; the process may start another run."""
        try:
            self._core.settle()
        finally:
            self._core.close()
