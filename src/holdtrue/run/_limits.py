"""The limits of memory of a group's workers, and mappings that keep them: from the setting `costs`, which all have."""

from collections.abc import Callable, Sequence
from typing import final

from holdtrue.elastic import View
from holdtrue.mapping import Mapping, even_mapping
from holdtrue.plan import Plan
from holdtrue.solve import Costs, JobCosts, Standing, best_mapping, can_hold, has_room, parse_job_costs

from ._head import Head


@final
class Limits:
    """What a job that began from a profile knows of what its workers can hold.

    Args:
        costs: The setting.
        plan: The job's.
        own_model: Full name of the model of this worker's device.
        own_place: That device, told from those of other workers.
    """

    def __init__(self, costs: str, plan: Plan, *, own_model: str, own_place: str) -> None:
        self._job: JobCosts = parse_job_costs(costs)
        self._plan, self.own_model, self.own_place = plan, own_model, own_place

    def costs_of(self, view: View, heads: Sequence[Head]) -> Costs:
        """The costs of a view's members, by rank.

        Args:
            view: The members.
            heads: What they said of their devices, by rank.
        """
        standing = [
            Standing(number=member.worker, device=member.device, model=head.model, place=head.place)
            for member, head in zip(view.members, heads, strict=True)
        ]
        return self._job.costs_of(standing, self._plan)


def choose_fitting(wanted: Mapping, costs: Costs) -> Mapping:
    """The mapping that is wanted, or the even one where that breaks a limit of memory, or else the solver's.

    Where no mapping keeps the limits it is the even one: see `keeps_limits`.
    """
    if can_hold(costs, wanted):
        return wanted
    even = even_mapping(wanted.virtual_nodes, wanted.world_size)
    return even if can_hold(costs, even) else best_mapping(costs) or even


def keeps_limits(mapping: Mapping, costs: Costs | None) -> bool:
    """Whether every worker can hold what the mapping gives it, as far as anybody knows.

    Guarantee:
        Whole numbers alone decide: workers on unlike devices find the same.
    """
    return costs is None or can_hold(costs, mapping)


def room_by_rank(costs: Costs | None) -> Callable[[int, Sequence[int]], bool]:
    """Whether the worker of a rank has room for virtual nodes: for `take_over_mapping`; whole numbers alone, too."""
    if costs is None:
        return lambda rank, ids: True
    kinds = {rank: kind for kind in costs.kinds for rank in kind.ranks}
    return lambda rank, ids: has_room(costs, kinds[rank], ids)
