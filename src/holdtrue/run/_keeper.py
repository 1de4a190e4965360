"""Checkpoints of a run: when they are written, what they hold, and how a run goes on from one."""

import io
from typing import Any

import torch

from holdtrue.engine import Checkpoint, newest_checkpoint, write_checkpoint
from holdtrue.errors import CheckpointError

from ._core import Core
from ._feed import Feed, IterableFeed


class Keeper:
    """Writes and restores the checkpoints of one run on one worker."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._written: tuple[int, bool] | None = None
        """Step of the newest checkpoint, and whether it says that its call is over."""
        self._found: Checkpoint | None = None
        self._shards: dict[int, Any] = {}  # Any: the user's state_dict
        self.iterable_start = 0, 0
        """(epoch, step in epoch) of the present call where an iterable source goes on."""
        self.is_over = False
        """Whether the call that is resumed was left by break: it has no more steps."""

    def find(self) -> None:
        """Read the newest whole checkpoint, if the run is to resume."""
        core = self._core
        if not core.settings.resume or core.settings.run_dir is None:
            return
        found, refused = newest_checkpoint(core.settings.run_dir)
        core.outlet.notes(refused)
        if found is None:
            core.outlet.say(
                f"{core.settings.run_dir} has no checkpoint to resume; the run starts from its first step."
            )
            return
        self._found = found
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
        core.wishes.is_stopping, core.wishes.stop_reason = loop["is_stopping"], loop["stop_reason"]
        core.engine.buffers.per_node = {
            name: {v: value.to(core.device) for v, value in values.items()}
            for name, values in found.state["nodes"]["buffers"].items()
        }
        self._shards = found.state["nodes"]["shards"]
        self.iterable_start = loop["epoch"], loop["step"]
        digest, _ = core.state.digest(position.digested)
        if digest != found.digest:
            raise CheckpointError(
                f"the state restored from {found.path} has the digest {digest[:16]}... and was saved with {found.digest[:16]}; "
                f"an object's load_state_dict does not put back all of its state_dict. Look at what the script registers."
            )

    def restore_shards(self, feed: Feed) -> None:
        """Continue the shards of an iterable source, once, in the epoch of the checkpoint."""
        if isinstance(feed, IterableFeed) and self._shards:
            feed.load_states(self._shards)
        self._shards = {}

    def is_collective(self, feed: Feed | None) -> bool:
        """Whether `write` needs all workers: some state belongs to single virtual nodes."""
        return isinstance(feed, IterableFeed) or any(
            rule == "per_node" for _, rule in self._core.plan.buffers
        )

    def write(self, feed: Feed | None, *, epoch_in_call: int = 0, step_in_epoch: int = 0) -> None:
        """Write a checkpoint of this boundary, unless there is one; the main worker does, the others go on.

        Args:
            feed: What the present call reads; None if the call is over.
            epoch_in_call: Epoch of the call in which an iterable source goes on.
            step_in_epoch: Step of that epoch.
        """
        core, position = self._core, self._core.calls.position
        key = position.step, feed is None
        if position.step == 0 or key == self._written or core.settings.run_dir is None:
            return
        self._written = key
        nodes = self._gather_node_states(feed)
        if core.membership.rank != 0:
            return
        digest, _ = core.state.digest(position.digested)
        core.last_digest = digest
        state = core.state.capture() | {
            "position": position.to_dict(),
            "calls": core.calls.saved(),
            "nodes": nodes,
            "loop": {
                "epoch": epoch_in_call if isinstance(feed, IterableFeed) else 0,
                "step": step_in_epoch if isinstance(feed, IterableFeed) else 0,
                "is_over": feed is None,
                "is_stopping": core.wishes.is_stopping,
                "stop_reason": core.wishes.stop_reason,
            },
        }
        try:
            path = write_checkpoint(
                core.settings.run_dir,
                step=position.step,
                weights=core.state.weights(),
                state=state,
                plan=core.plan,
                digest=digest,
                keep=core.settings.keep_checkpoints,
                generation=core.membership.generation,
            )
        except OSError as error:
            reason = f"the checkpoint of step {position.step} could not be written ({error.strerror}); training goes on."
            core.outlet.say(reason)
            core.outlet.event("checkpoint-failed", step=position.step, reason=reason)
            return
        core.outlet.checkpoint(position.step, str(path))

    def _gather_node_states(
        self, feed: Feed | None
    ) -> dict[str, Any]:  # Any: values of torch.save(weights_only)
        """State that belongs to single virtual nodes, of all of them; collective where there can be any."""
        core = self._core
        merged: dict[str, Any] = {"buffers": {}, "shards": {}}
        if not self.is_collective(feed):
            return merged
        own = {"buffers": core.engine.buffers.per_node, "shards": feed.states() if feed else {}}
        for part in core.group.gather_bytes(_to_bytes(own), what="state of single virtual nodes"):
            read = torch.load(io.BytesIO(part), weights_only=True, map_location="cpu")
            merged["shards"] |= read["shards"]
            for name, values in read["buffers"].items():
                merged["buffers"].setdefault(name, {}).update(values)
        return merged


def _to_bytes(value: Any) -> bytes:  # Any: values of torch.save(weights_only)
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
