"""Unlike devices in one job: updates are those of one kind, sent as bytes to the workers of the others.

    update (every worker, so that optimizers have their state) -> the leader's bytes, into memory of their own
        -> a gather, which everyone must enter -> the bytes take the place of this worker's own

Clip and optimizer round differently on unlike devices, so that replicas would part. Gradients do not: the reduction only
adds. Nothing is overwritten before the gather: who completed it knows that all have all bytes, and if a worker dies before
that, those who are left begin again, with a leader among them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import torch

from holdtrue.engine import flatten_state
from holdtrue.errors import DivergenceError, WaitTimeoutError, WorkerLostError

from ._elastic import Regrouped

if TYPE_CHECKING:
    from ._core import Core

UPDATED = ("weights/", "buffers/", "optimizer/")
"""Entries of the training state that an update changes by arithmetic of the device."""


def describe_kind(device: torch.device, threads: int) -> str:
    """What decides how a device rounds: its name, its vector units, its threads, and torch's build."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"CPU with {capability}, {threads} thread{'s' if threads != 1 else ''}, torch {torch.__version__}"


@final
class Unlike:
    """What one worker knows of the kinds of devices in its group, and the sending of the leader's bytes.

    Args:
        core: The run.
    """

    def __init__(self, core: "Core") -> None:
        self._core = core
        self.own = describe_kind(core.device, core.settings.threads)
        self.leading = ""
        """The kind whose updates count; empty before the workers have met."""
        self._kinds: dict[int, str] = {}
        """Kind of each worker that was met, by its number."""
        self._flat = torch.empty(0, dtype=torch.uint8)
        self._has_told = False

    # ---- who is what ----

    def _numbers(self) -> Sequence[int]:
        group = self._core.elastic
        if group is None:
            return range(self._core.group.world_size)
        return [member.worker for member in group.view.members]

    @property
    def number(self) -> int:
        """Number of this worker in the job; its rank in a fixed group."""
        group = self._core.elastic
        return self._core.group.rank if group is None else group.agent.worker

    def see_all(self, kinds: Mapping[int, str], leading: Sequence[str]) -> None:
        """The workers have met, and said their kinds, by number, and the kind that leads; joiners know none."""
        self._kinds.update(kinds)
        self.leading = next(filter(None, leading), self._present()[0])
        self._settle_leader()
        if self.is_mixed and not self._has_told:
            self._has_told = True
            present = sorted(set(self._present()))
            self._core.outlet.say(
                f"devices of {len(present)} kinds ({'; '.join(present)}): bits of this run depend on which of them ran which "
                f"virtual node. Replicas do not part: updates are those of {self.leading}, sent to the others after every step."
            )

    def see_alone(self) -> None:
        """This worker begins alone: its kind leads."""
        self.leading = self.leading or self.own
        self._kinds.update(dict.fromkeys(self._numbers(), self.own))

    def _present(self) -> list[str]:
        """Kinds of the present workers, by rank."""
        return [self._kinds.get(number, self.own) for number in self._numbers()]

    @property
    def is_mixed(self) -> bool:
        """Whether replicas would part if each worker computed its own update."""
        return self._core.plan.numerics != "portable" and len(set(self._present())) > 1

    def _settle_leader(self) -> int:
        """Rank of the worker whose bytes count: the lowest of the leading kind; without any, rank 0, whose kind leads then."""
        present = self._present()
        if self.leading not in present:
            text = f"no worker of {self.leading} is left; updates are those of {present[0]} from now on, and round as it does"
            self.leading = present[0]
            self._core.outlet.event("leader", step=self._core.calls.position.step, reason=text)
            self._core.outlet.say(text)
        return present.index(self.leading)

    # ---- the bytes ----

    def unify_update(self, grad_norm: float | None) -> float | None:
        """Give every worker the leader's parameters, buffers and optimizer state; and its gradient norm.

        Called by:
            Every worker, right after its own update.

        Blocks:
            Until all workers have all bytes, at most the group's time-out. Devices of one kind send nothing.
        """
        if not self.is_mixed:
            return grad_norm
        word = "" if grad_norm is None else float(grad_norm).hex()
        word = self._unify(self._tensors(UPDATED), word, "the update of the leading kind")
        return float.fromhex(word) if word else None

    def unify_registered(self) -> None:
        """Give every worker the leader's registered objects, which the script changed after the update.

        Called by:
            Every worker, at the end of every step.
        """
        registered = self._core.state.registered
        if not registered or not self.is_mixed:
            return
        states = {name: registered[name].state_dict() for name in sorted(registered)}
        tensors = {
            path: leaf
            for path, leaf in flatten_state(states)
            if isinstance(leaf, torch.Tensor) and (leaf.is_floating_point() or leaf.is_complex())
        }
        if not tensors:
            return
        self._unify(tensors, "", "the registered objects of the leading kind")
        for name, state in states.items():
            registered[name].load_state_dict(state)

    def unify_start(self) -> None:
        """Give every worker the leader's first state: random numbers of unlike devices differ in their last bits."""
        self._unify(self._tensors(UPDATED), "", "the first state of the leading kind")

    def _tensors(self, prefixes: tuple[str, ...]) -> dict[str, torch.Tensor]:
        entries = self._core.state.entries({})
        return {
            name: entries[name]
            for name in sorted(entries)
            if name.startswith(prefixes) and isinstance(entries[name], torch.Tensor)
        }

    def _unify(self, tensors: Mapping[str, torch.Tensor], word: str, what: str) -> str:
        """Put the leader's bytes into these tensors; returns the leader's word."""
        core = self._core
        layout = hashlib.sha256(
            json.dumps([[n, str(t.dtype), list(t.shape)] for n, t in tensors.items()]).encode()
        ).hexdigest()
        while self.is_mixed:
            group, leader, lost = core.group, self._settle_leader(), None
            is_leader = leader == group.rank
            try:
                flat = self._send(tensors, leader, what)
                own = json.dumps([layout, word]).encode()
                said = group.gather_bytes(own, what=f"all workers to have {what}")
            except Regrouped:
                core.take_up_mapping()
                continue
            except (WorkerLostError, WaitTimeoutError) as error:
                if core.elastic is None:
                    raise
                lost = error
                error.__traceback__ = None
            if lost is not None:  # not in the block above: a live traceback keeps the sockets open
                assert core.elastic is not None
                core.elastic.recover(lost)
                core.take_up_mapping()
                continue
            parts = [json.loads(part) for part in said]
            self._check_layouts([other for other, _ in parts], leader, what)
            if not is_leader:
                _put(flat, tensors.values())
            return str(parts[leader][1])
        self._settle_leader()
        return word

    def _check_layouts(self, layouts: Sequence[str], leader: int, what: str) -> None:
        odd = [rank for rank, layout in enumerate(layouts) if layout != layouts[leader]]
        if odd:
            raise DivergenceError(
                f"{what} has other tensors on worker {odd[0]} than on worker {leader}; replicas must be alike. Look for "
                f"code that builds parameters or optimizer state by the device."
            )

    def _send(self, tensors: Mapping[str, torch.Tensor], leader: int, what: str) -> torch.Tensor:
        """The leader's bytes of all tensors, on every worker."""
        group = self._core.group
        total = sum(t.numel() * t.element_size() for t in tensors.values())
        if self._flat.numel() != total or self._flat.device != group.device:
            self._flat = torch.empty(total, dtype=torch.uint8, device=group.device)
        if leader == group.rank:
            at = 0
            for tensor in tensors.values():
                size = tensor.numel() * tensor.element_size()
                self._flat[at : at + size].copy_(_bytes_of(tensor))
                at += size
        bounds = [0 if rank <= leader else total for rank in range(group.world_size + 1)]
        group.spread(self._flat, bounds, what=what).wait()
        return self._flat


def _put(flat: torch.Tensor, tensors: Any) -> None:  # Any: an iterable of tensors
    at = 0
    with torch.no_grad():
        for tensor in tensors:
            size = tensor.numel() * tensor.element_size()
            # A copy: the bytes need not lie where this dtype may.
            value = flat[at : at + size].clone().view(_real_dtype(tensor))
            target = torch.view_as_real(tensor) if tensor.is_complex() else tensor
            target.copy_(value.reshape(target.shape))
            at += size


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    return real.reshape(-1).view(torch.uint8)


def _real_dtype(tensor: torch.Tensor) -> torch.dtype:
    return tensor.real.dtype if tensor.is_complex() else tensor.dtype
