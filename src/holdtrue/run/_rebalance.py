"""Moving virtual nodes to the devices that are faster now, while a job runs.

    times in every round's ledger -> the main worker alone decides -> the controller's planned view -> entered by all

A decision is made in one place: whatever the others would compute from the same times does not matter. Until the view
is there nothing has changed, and a word that is lost costs a later decision.
"""

import json
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, final

from holdtrue.elastic import View
from holdtrue.profile import Profile, parse_profile
from holdtrue.solve import (
    Costs,
    DeviceGroup,
    Rebalance,
    RebalanceOptions,
    RebalanceState,
    correct_costs,
    cost_devices,
    decide_mapping,
    plain_costs,
)

if TYPE_CHECKING:
    from ._core import Core

MOST_TEXT = 8000
"""Characters of a mapping that a message can carry."""


@final
class Rebalancer:
    """Watches the workers' pass times, and asks for another mapping when it pays; at work on the main worker alone.

    Args:
        core: The run.
    """

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._options = RebalanceOptions()
        self._profile: Profile | None = None
        self._memory: dict[str, int] = {}
        self._founders: list[str] = []
        """Kind in the profile of each worker that the job began with, by number: one with a limit of its own is a kind."""
        if core.settings.costs:
            found = json.loads(core.settings.costs)
            self._profile, self._memory = parse_profile(found["profile"]), found["memory"]
            self._founders = found["kinds"]
        self._members: tuple[tuple[int, str], ...] = ()
        """Number and device of each worker, by rank: the state is about these."""
        self._state = RebalanceState()
        self._measured: Costs | None = None
        """What the profile says of the members; None until it is asked for them."""
        self._steps_s: deque[float] = deque(maxlen=self._options.window)
        self._rest_s: deque[float] = deque(maxlen=self._options.window)
        """Seconds of the latest steps, and what they took beyond their slowest worker's passes."""
        self._asked: Rebalance | None = None
        self._before_s = 0.0
        self._on_trial: Rebalance | None = None

    def see_view(self, view: View) -> None:
        """Another group stands: what is known is about its members, or is forgotten."""
        members = tuple((member.worker, member.device) for member in view.members)
        asked, self._asked, self._on_trial = self._asked, None, None
        if members != self._members:
            self._members, self._state, self._measured = members, RebalanceState(), None
        elif asked is not None and view.mapping == str(asked.mapping):
            self._on_trial = asked
        self._steps_s.clear()
        self._rest_s.clear()

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
            options=self._options,
        )
        self._state = found.state
        if found.mapping is not None and len(str(found.mapping)) <= MOST_TEXT:
            self._asked, self._before_s = found, median(self._steps_s)
            group.agent.say_remap(group.generation, str(found.mapping), found.reason)

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
        plan = self._core.plan
        kinds = [
            self._founders[number] if number < len(self._founders) else device.partition(":")[0]
            for number, device in self._members
        ]
        if self._profile is not None and set(kinds) <= {device.kind for device in self._profile.devices}:
            if self._measured is None:
                groups = [DeviceGroup(kind=kind, count=1) for kind in kinds]
                self._measured = cost_devices(self._profile, groups, plan, self._memory)
            return correct_costs(self._measured, self._core.mapping, median(self._rest_s))
        known = [t for t in pass_s if t is not None]
        return plain_costs(
            plan, workers=len(kinds), pass_s=median(known) if known else 1.0, fixed_s=median(self._rest_s)
        )
