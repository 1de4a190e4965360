"""What an elastic run tells its membership of its progress, and writes down of changes of the membership."""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, final

from holdtrue.elastic import View
from holdtrue.wire import MOST_MAPPING, PredictedReport

from ._elastic import ElasticGroup

if TYPE_CHECKING:
    from ._core import Core

PROGRESS_EVERY_S = 0.25
"""Shortest time between two words on progress to the membership, in seconds."""


@final
class Account:
    """Keeps what the words are about: who is in the group, and how long a pass took each worker.

    Args:
        core: The run.
    """

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._members: tuple[int, ...] = ()
        """Numbers of the present view's workers, by rank."""
        self._measured_s: dict[int, float] = {}
        """By worker, seconds of a virtual node in its last step."""
        self._told_s = 0.0
        self._controller_life: int | None = None

    def tell_progress(
        self,
        *,
        step: int,
        total: int | None,
        epoch: int,
        loss: float,
        seconds: float,
        pass_s: Sequence[float | None],
    ) -> None:
        """Tell the membership how far the run is, a few times a second.

        Args:
            step: Index of the step that is done.
            total: Steps of the loop; None if nobody knows.
            epoch: The step's.
            loss: The step's; not a number where it had none.
            seconds: What the step took, in seconds.
            pass_s: By rank, seconds of a virtual node in it; None for a worker without passes.

        Called by:
            Every worker, after every step; the main one of an elastic job tells.
        """
        group = self._core.elastic
        if group is None:
            return
        if len(pass_s) == len(self._members):  # else a worker was lost after the round had closed
            self._measured_s |= {w: t for w, t in zip(self._members, pass_s, strict=True) if t is not None}
        self._record_controller(group.agent.controller_life, step)
        now_s = time.monotonic()
        if not self._core.is_main or now_s - self._told_s < PROGRESS_EVERY_S:
            return
        self._told_s = now_s
        facts: dict[str, int | float | str | None] = {
            "step": step + 1,
            "total": total,
            "epoch": epoch,
            "loss": loss if math.isfinite(loss) else None,
            "seconds": seconds,
            "generation": group.generation,
        }
        mapping = str(self._core.mapping)
        facts |= {"mapping": mapping} if len(mapping) <= MOST_MAPPING else {}
        if times := [t for t in pass_s if t is not None]:
            text = " ".join("-" if t is None else f"{t:.4g}" for t in pass_s)
            facts |= {"fastest_pass_s": min(times), "slowest_pass_s": max(times)}
            facts |= {"pass_s": text} if len(text) <= MOST_MAPPING else {}
        group.agent.say_progress(facts)

    def tell_prediction(self, *, done: int, total: int) -> None:
        """Tell those who look how far a prediction to disk is, a few times a second.

        Args:
            done: Examples whose outputs are on disk.
            total: Examples of the data set.

        Called by:
            Every worker, between rounds; the main one tells, also the launcher.
        """
        group, now_s = self._core.elastic, time.monotonic()
        if group is not None:
            self._record_controller(group.agent.controller_life, self._core.step_in_progress())
        if not self._core.is_main or (now_s - self._told_s < PROGRESS_EVERY_S and done < total):
            return
        self._told_s = now_s
        self._core.outlet.send(PredictedReport(done=done, examples=total))
        if group is None:
            return
        group.agent.say_progress(
            {
                "step": self._core.step_in_progress(),
                "predicted": done,
                "examples": total,
                "generation": group.generation,
            }
        )

    def _record_controller(self, life: int, step: int) -> None:
        """Note that the job's controller died and another one took its place; training did not wait for it."""
        known, self._controller_life = self._controller_life, life
        if known is not None and life > known:
            reason = f"the controller was started again ({life} before it ended); training went on"
            self._core.outlet.event("controller", step=step, reason=reason, details={"life": life})

    def see_view(self, group: ElasticGroup, view: View, *, seconds: float, is_told: bool) -> None:
        """Another group stands.

        Args:
            group: The run's.
            view: Its view.
            seconds: From the boundary, or the loss, until it stood.
            is_told: Whether that is an event of the run: its founding is none.
        """
        if is_told:
            self._record_view(group, view, seconds)
        self._members = tuple(m.worker for m in view.members)

    def _record_view(self, group: ElasticGroup, view: View, seconds: float) -> None:
        is_same = tuple(m.worker for m in view.members) == self._members
        self._core.outlet.event(
            "loss" if not view.is_planned else "remap" if is_same else "resize",
            step=self._core.step_in_progress(),
            reason=view.cause or "The membership changed.",
            details={
                "generation": view.generation,
                "workers": [m.worker for m in view.members],
                "devices": [m.device for m in view.members],
                "joiners": list(view.joiners),
                "lost": list(view.lost),
                "mapping": str(group.mapping),
                "seconds": seconds,
                "pass_s": [self._measured_s.get(m.worker) for m in view.members],
                **self._core.rebalancer.details_of(view),
            },
        )
