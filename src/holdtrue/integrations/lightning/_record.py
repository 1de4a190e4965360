"""Where Lightning's loops, callbacks and logged values are: what a worker that joins, or a run that resumes, needs of them."""

import json
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.trainer import call

from holdtrue.engine import flatten_state
from holdtrue.errors import UsageError

_CLOCKED = ("time_elapsed",)
"""What callbacks keep of a clock: each worker has its own."""
_OF_CHECKPOINTS = ("_last_global_step_saved", "_last_checkpoint_saved")
"""What ModelCheckpoint goes by and does not give out as its state."""
_SPOKEN = ("_callback_metrics", "_logged_metrics", "_progress_bar_metrics")
"""Newest logged values, by whom they are for."""
_OPTIONS = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx")
"""How a value is logged."""

Values = dict[str, Any]  # Any: what torch.save(weights_only) has


class LoopRecord:
    """A Trainer's place between two steps, for `run.register`.

    Args:
        trainer: The Trainer.

    Guarantee:
        Its part of the digest is the counters of the loops alone: values that are logged, and what callbacks keep,
        may come from a clock or name a folder.
    """

    def __init__(self, trainer: Any) -> None:  # Any: Lightning's Trainer
        self._trainer = trainer
        self._due: Values | None = None
        """What was put back and has yet to be put back into the loop over batches, which clears its counters first."""

    # ---- given out ----

    def digested_state(self) -> Values:
        """What of the state is in the digest."""
        return {"loops": self._loops()}

    def state_dict(self) -> Values:
        """The whole state, at the boundary between two steps."""
        trainer = self._trainer
        connector = trainer._logger_connector
        return {
            "loops": self._loops(),
            "callbacks": {key: _fit_or_say(key, state) for key, state in self._callbacks().items()},
            "results": {key: _result_values(r) for key, r in self._results().items() if r.is_tensor},
            "metrics": {name: dict(getattr(connector, name)) for name in _SPOKEN},
            "is_first": connector._first_loop_iter,
            "spoken": connector._current_fx,
            "should_stop": trainer.should_stop,
        }

    def _loops(self) -> str:
        return json.dumps(self._trainer.fit_loop.state_dict(), sort_keys=True)

    def _results(self) -> Any:  # Any: Lightning's collection of results
        return self._trainer.fit_loop.epoch_loop._results

    def _callbacks(self) -> Values:
        found = call._call_callbacks_state_dict(self._trainer)
        own = {c.state_key: c for c in self._trainer.callbacks}
        return {key: _without_clock(state) | _saved_at(own.get(key)) for key, state in found.items()}

    # ---- put back ----

    def load_state_dict(self, saved: Values) -> None:
        """Put back what `state_dict` gave, but for what `settle` does.

        Raises:
            UsageError: a callback's state could not be sent.
        """
        trainer = self._trainer
        trainer.fit_loop.load_state_dict(json.loads(saved["loops"]))
        _calm(trainer.fit_loop)
        self._load_callbacks(saved["callbacks"])
        trainer.should_stop = saved["should_stop"]
        for name in _SPOKEN:
            setattr(trainer._logger_connector, name, self._here(saved["metrics"][name]))
        self._due = saved

    def reopen_epoch(self) -> None:
        """The present epoch begins on this worker too: its hooks are called, and then it is counted as begun."""
        if self._due is None:
            return
        progress = self._trainer.fit_loop.epoch_progress
        for counts in (progress.total, progress.current):
            counts.ready = counts.started = counts.processed

    def settle(self) -> int | None:
        """The loop over batches has cleared its counters, and its first batch is due: put them back.

        Returns:
            Steps of the present epoch that were done; None where nothing was put back.
        """
        saved, self._due = self._due, None
        if saved is None:
            return None
        trainer = self._trainer
        loop, connector = trainer.fit_loop.epoch_loop, trainer._logger_connector
        loop.load_state_dict(json.loads(saved["loops"]), prefix="epoch_loop.")
        _calm(loop)
        done: int = loop.batch_progress.current.ready
        trainer.fit_loop._data_fetcher.fetched = done
        for key, values in saved["results"].items():
            self._load_result(key, values)
        connector._first_loop_iter, connector._current_fx = saved["is_first"], saved["spoken"]
        return done

    def _load_callbacks(self, saved: Values) -> None:
        for callback in self._trainer.callbacks:
            state = dict(saved.get(callback.state_key, {}))
            if "unfit" in state:
                raise UsageError(state["unfit"])
            for name in _OF_CHECKPOINTS:
                if name in state:
                    setattr(callback, name, state.pop(name))
            if state:
                callback.load_state_dict(self._here(state))

    def _load_result(self, key: str, values: Values) -> None:
        """A value that is summed up over the epoch, as if this worker had logged it from its beginning."""
        results, trainer = self._results(), self._trainer
        options = {name: values[name] for name in _OPTIONS}
        results.log(
            **options,
            value=torch.zeros((), device=trainer.strategy.root_device),
            reduce_fx=values["reduce_fx"],
            sync_dist=values["sync"],
            sync_dist_fn=trainer.strategy.reduce,
            rank_zero_only=values["rank_zero_only"],
            batch_size=1,
        )
        result = results[key]
        for name, value in self._here(values["state"]).items():
            setattr(result, name, value)

    def _here(self, values: Values) -> Values:
        device = self._trainer.strategy.root_device
        return {n: v.to(device) if isinstance(v, torch.Tensor) else v for n, v in values.items()}


def _calm(loop: Any) -> None:  # Any: a loop of Lightning's
    """Not a restart in Lightning's sense, which goes on from the places where it writes checkpoints itself."""
    loop._restarting = loop._loaded_from_state_dict = loop._resuming_from_checkpoint = False
    loop.reset_restart_stage()
    for inner in vars(loop).values():
        if isinstance(inner, _Loop):
            _calm(inner)


def _without_clock(state: Values) -> Values:
    return {name: value for name, value in state.items() if name not in _CLOCKED}


def _saved_at(callback: Any) -> Values:  # Any: a callback
    if not isinstance(callback, ModelCheckpoint):
        return {}
    return {name: getattr(callback, name) for name in _OF_CHECKPOINTS if hasattr(callback, name)}


def _fit_or_say(key: str, state: Values) -> Values:
    """The state if it can be sent, or else the sentence with which a worker that needs it ends."""
    try:
        list(flatten_state(state))
    except UsageError as error:
        return {"unfit": f"the state of the callback {key} cannot go to another worker: {error}"}
    return state


def _result_values(result: Any) -> Values:  # Any: Lightning's _ResultMetric
    meta = result.meta
    kept = ("value", "cumulated_batch_size", "_forward_cache", "_computed", "has_reset", "_update_count")
    state = {name: getattr(result, name) for name in kept if hasattr(result, name)}
    return {name: getattr(meta, name) for name in _OPTIONS} | {
        "reduce_fx": meta.reduce_fx.__name__,
        "sync": meta.sync.should,
        "rank_zero_only": meta.sync.rank_zero_only,
        "state": {n: v.clone() if isinstance(v, torch.Tensor) else v for n, v in state.items()},
    }
