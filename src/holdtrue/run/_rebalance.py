"""Moving virtual nodes to the devices that are faster now, while a job runs.

    times in every round's ledger -> the main worker alone decides -> the controller's planned view -> entered by all

A decision is made in one place: whatever the others would compute from the same times does not matter. Until the view
is there nothing has changed, and a word that is lost costs a later decision.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, final

from holdtrue.elastic import View
from holdtrue.solve import (
    Costs,
    Rebalance,
    RebalanceOptions,
    RebalanceState,
    correct_costs,
    decide_mapping,
    plain_costs,
)
from holdtrue.wire import MOST_MAPPING

if TYPE_CHECKING:
    from ._core import Core

REMAPS = 5
"""Latest re-mappings whose median time is what the next one is expected to cost."""


@final
class Rebalancer:
    """Watches the workers' pass times, and asks for another mapping when it pays; at work on the main worker alone.

    Args:
        core: The run.
    """

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._options = RebalanceOptions()
        self._members: tuple[tuple[int, str], ...] = ()
        """Number and device of each worker, by rank: the state is about these."""
        self._state = RebalanceState()
        self._steps_s: deque[float] = deque(maxlen=self._options.window)
        self._rest_s: deque[float] = deque(maxlen=self._options.window)
        """Seconds of the latest steps, and what they took beyond their slowest worker's passes."""
        self._remaps_s: deque[float] = deque(maxlen=REMAPS)
        """Seconds of the latest re-mappings; on every worker, since any may become the main one."""
        self._has_refused = False
        self._asked: Rebalance | None = None
        self._before_s = 0.0
        self._on_trial: Rebalance | None = None

    def see_view(self, view: View, *, seconds: float) -> None:
        """Another group stands: what is known is about its members, or is forgotten.

        Args:
            view: Its view.
            seconds: From the boundary, or the loss, until it stood.
        """
        members = tuple((member.worker, member.device) for member in view.members)
        if view.is_planned and members == self._members:
            self._remaps_s.append(seconds)
        asked, self._asked, self._on_trial = self._asked, None, None
        if members != self._members:
            self._members, self._state = members, RebalanceState()
        elif asked is not None and view.mapping == str(asked.mapping):
            self._on_trial = asked
        self._steps_s.clear()
        self._rest_s.clear()

    @property
    def options(self) -> RebalanceOptions:
        """What must speak for a re-mapping: it costs what those before it have taken, once there was one."""
        if not self._remaps_s:
            return self._options
        return replace(self._options, remap_s=median(self._remaps_s))

    def see_step(self, step: int, pass_s: Sequence[float | None], step_s: float) -> None:
        """Decide after a step that is done.

        Args:
            step: Its index.
            pass_s: By rank, seconds of a virtual node in it; None for a worker without passes.
            step_s: Seconds of the whole step, on this worker.

        Called by:
            Every worker, after every step; acts on the main one of an elastic job with `rebalance` on.
        """
        core, group = self._core, self._core.elastic
        if group is None or not core.is_main or not core.settings.rebalance or len(pass_s) < 2:
            return
        held = core.mapping.held
        if len(held) != len(pass_s) or len(self._members) != len(pass_s):
            return  # a worker was lost after the round had closed
        slowest_s = max((len(ids) * (t or 0.0) for ids, t in zip(held, pass_s, strict=True)), default=0.0)
        self._steps_s.append(step_s)
        self._rest_s.append(max(0.0, step_s - slowest_s))
        self._tell_gain(step)
        if group.agent.newest_planned > group.generation:
            return  # a change is under way
        found = decide_mapping(
            self._state,
            pass_s=pass_s,
            step=step,
            mapping=core.mapping,
            costs=self._costs(pass_s),
            options=self.options,
        )
        self._state = found.state
        if found.mapping is None:
            return
        text = str(found.mapping)
        if len(text) > MOST_MAPPING:
            self._refuse_long(len(text))
            return
        self._asked, self._before_s = found, median(self._steps_s)
        group.agent.say_remap(group.generation, text, found.reason)

    def _refuse_long(self, characters: int) -> None:
        """Say once that the mapping stays, since a better one cannot be told to the others."""
        if not self._has_refused:
            self._has_refused = True
            self._core.outlet.say(
                f"a better mapping was found, and its text has {characters} characters; the controller takes at most "
                f"{MOST_MAPPING}, so virtual nodes stay where they are. Use fewer virtual nodes, or --no-rebalance."
            )

    def details_of(self, view: View) -> dict[str, float]:
        """Predictions for the record, where this worker asked for the view's mapping; else nothing."""
        asked = self._asked
        if asked is None or view.mapping != str(asked.mapping):
            return {}
        return {
            "step_s": asked.step_s,
            "predicted_step_s": asked.new_step_s,
            "predicted_gain": asked.gain,
        }

    def _tell_gain(self, step: int) -> None:
        """Say what a re-mapping has brought, once it has been seen for as many steps as a decision looks back on."""
        trial, window = self._on_trial, self._options.window
        if trial is None or len(self._steps_s) < window:
            return
        self._on_trial = None
        after_s = median(self._steps_s)
        gain = self._before_s / after_s - 1.0
        self._core.outlet.event(
            "remapped",
            step=step,
            reason=(
                f"the {window} steps before the re-mapping took {self._before_s:.4g} s each, the {window} after it "
                f"{after_s:.4g} s: {100 * gain:+.0f} % throughput, and {100 * trial.gain:+.0f} % was predicted"
            ),
            details={
                "before_s": self._before_s,
                "after_s": after_s,
                "gain": gain,
                "predicted_gain": trial.gain,
            },
        )

    def _costs(self, pass_s: Sequence[float | None]) -> Costs:
        """What is known of the workers besides their times: their kinds' profile, or what the steps show."""
        core = self._core
        costs = core.elastic.costs if core.elastic is not None else None
        if costs is not None:
            return correct_costs(costs, core.mapping, median(self._rest_s))
        known = [t for t in pass_s if t is not None]
        return plain_costs(
            core.plan,
            workers=len(self._members),
            pass_s=median(known) if known else 1.0,
            fixed_s=median(self._rest_s),
        )
