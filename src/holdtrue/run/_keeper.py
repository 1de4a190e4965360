"""Checkpoints of a run: when they are written, what they hold, and how a run goes on from one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from holdtrue.engine import (
    StateText,
    newest_checkpoint,
    read_state_text,
    write_checkpoint,
    write_state_text,
)
from holdtrue.errors import CheckpointError

from ._core import Core
from ._feed import Feed, IterableFeed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A state to go on from: a checkpoint's, or another worker's."""

    weights: Mapping[str, Mapping[str, torch.Tensor]]
    state: Mapping[str, Any]  # Any: values of torch.save(weights_only)
    digest: str = ""
    """Digest that the state must have once it is restored; empty where the workers compare theirs."""
    path: str = ""


class Keeper:
    """Writes and restores the checkpoints of one run on one worker."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._written: tuple[int, bool] | None = None
        """Step of the newest checkpoint, and whether it says that its call is over."""
        self._found: _Found | None = None
        self._shards: dict[int, Any] = {}  # Any: the user's state_dict
        self.resumed_step: int | None = None
        """Step that a run which resumed has next at its start."""
        self.iterable_start = 0, 0
        """(epoch, step in epoch) of the present call where an iterable source goes on."""
        self.is_over = False
        """Whether the call that is resumed was left by break: it has no more steps."""

    def find(self) -> None:
        """Read the newest whole checkpoint, if the run is to resume.

        Raises:
            CheckpointError: there are checkpoints and none of them is whole; the message names each.
        """
        core = self._core
        if not core.settings.resume or core.settings.run_dir is None:
            return
        found, refused = newest_checkpoint(core.settings.run_dir)
        if found is None and refused:
            raise CheckpointError(
                f"no checkpoint of {core.settings.run_dir} can be used: {'. '.join(refused)}. A run that is to resume does not "
                f"begin anew by itself: put an undamaged checkpoint back, or start again in another run directory."
            )
        core.outlet.notes(refused)
        if found is None:
            core.outlet.say(
                f"{core.settings.run_dir} has no checkpoint to resume; the run starts from its first step."
            )
            return
        self._found = _Found(
            weights=found.weights, state=found.state, digest=found.digest, path=str(found.path)
        )
        self.resumed_step = found.step
        core.calls.load(found.state["position"], found.state["calls"])
        core.outlet.say(f"resuming from {found.path} at step {found.step}.")

    def restore(self) -> None:
        """Put the checkpoint's state into the registered objects: the call it was written in is reached.

        Raises:
            CheckpointError: it does not fit the script's objects, or they do not take all of it.
        """
        core, found = self._core, self._found
        assert found is not None, "the calls catch up with a checkpoint"
        self._found = None
        position = core.calls.go_live()
        core.state.restore(found.weights, found.state)
        loop = found.state["loop"]
        self.is_over = loop["is_over"]
        self._written = position.step, self.is_over
        if found.path:
            core.kept_step = position.step
        core.wishes.is_stopping, core.wishes.stop_reason = loop["is_stopping"], loop["stop_reason"]
        core.engine.buffers.per_node = {
            name: {v: value.to(core.device) for v, value in values.items()}
            for name, values in found.state["nodes"]["buffers"].items()
        }
        self._shards = found.state["nodes"]["shards"]
        self.iterable_start = loop["epoch"], loop["step"]
        if found.digest:
            self._check_digest(found, core.state.digest(position.digested)[0])

    @staticmethod
    def _check_digest(found: _Found, digest: str) -> None:
        if digest != found.digest:
            raise CheckpointError(
                f"the state restored from {found.path} has the digest {digest[:16]}... and was saved with {found.digest[:16]}; "
                f"an object's load_state_dict does not put back all of its state_dict. Look at what the script registers."
            )

    def restore_in_call(self) -> None:
        """As `restore`, where the others are in the middle of a call that is no loop over steps.

        Raises:
            CheckpointError: as there.
        """
        found = self._found
        assert found is not None, "the others have given their state"
        self.restore()
        if found.state["loop"]["has_started"]:  # their first loop over steps is over
            self._core.has_started = True
            self._core.engine.numerics.begin_training()
        # What belongs to a loop is that of one that is over.
        self.is_over, self._shards, self.iterable_start = False, {}, (0, 0)

    def restore_shards(self, feed: Feed) -> None:
        """Continue the shards of an iterable source, once, in the epoch of the checkpoint."""
        if isinstance(feed, IterableFeed) and self._shards:
            feed.load_states(self._shards)
        self._shards = {}

    def write_state(self) -> StateText:
        """The whole state at this boundary, for a worker that joins: what a checkpoint holds."""
        feed = self._core.feed if self._core.is_looping else None  # after its loop it is closed
        return write_state_text({"weights": self._core.state.weights(), "state": self._whole(feed)})

    def accept_state(self, found: StateText) -> None:
        """Take what another worker's `write_state` gave; the calls of the script now catch up with it."""
        whole = read_state_text(found)
        self._found = _Found(weights=whole["weights"], state=whole["state"])
        self._core.calls.load(whole["state"]["position"], whole["state"]["calls"])

    def _whole(self, feed: Feed | None) -> dict[str, Any]:  # Any: values of torch.save(weights_only)
        """Everything but the weights, of all virtual nodes.

        Args:
            feed: What the present call reads; None if the call is over.
        """
        core, is_iterable = self._core, isinstance(feed, IterableFeed)
        epoch, step = core.loop.place_in_call if core.loop is not None and is_iterable else (0, 0)
        nodes = {"buffers": core.engine.buffers.per_node, "shards": feed.states() if feed else {}}
        return core.state.capture() | {
            "position": core.calls.position.to_dict(),
            "calls": core.calls.saved(),
            "nodes": nodes,
            "loop": {
                "epoch": epoch,
                "step": step,
                "is_over": feed is None,
                "is_stopping": core.wishes.is_stopping,
                "stop_reason": core.wishes.stop_reason,
                "has_started": core.has_started,
            },
        }

    def write(self, feed: Feed | None) -> None:
        """Write a checkpoint of this boundary, unless there is one; the main worker does, the others go on.

        Args:
            feed: What the present call reads; None if the call is over.
        """
        core, position = self._core, self._core.calls.position
        key = position.step, feed is None
        if position.step == 0 or key == self._written or core.settings.run_dir is None:
            return
        self._written = key
        if not core.is_main:
            return
        digest, _ = core.state.digest(position.digested)
        core.last_digest = digest
        state = self._whole(feed)
        try:
            path = write_checkpoint(
                core.settings.run_dir,
                step=position.step,
                weights=core.state.weights(),
                state=state,
                plan=core.plan,
                digest=digest,
                keep=core.settings.keep_checkpoints,
                generation=core.generation,
            )
        except OSError as error:
            reason = f"the checkpoint of step {position.step} could not be written ({error.strerror}); training goes on."
            core.outlet.say(reason)
            core.outlet.event("checkpoint-failed", step=position.step, reason=reason)
            return
        core.kept_step = position.step
        core.outlet.checkpoint(position.step, str(path))
