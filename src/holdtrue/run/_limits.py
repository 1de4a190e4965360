"""The limits of memory of a group's workers, and mappings that keep them: from the setting `costs`, which all have."""

from collections.abc import Callable, Sequence
from typing import final

from holdtrue.elastic import View
from holdtrue.mapping import Mapping, even_mapping
from holdtrue.plan import Plan
from holdtrue.solve import Costs, JobCosts, Standing, best_mapping, can_hold, has_room, parse_job_costs


@final
class Limits:
    """What a job that began from a profile knows of what its workers can hold.

    Args:
        costs: The setting.
        plan: The job's.
        own_model: Full name of this worker's device.
    """

    def __init__(self, costs: str, plan: Plan, *, own_model: str) -> None:
        self._job: JobCosts = parse_job_costs(costs)
        self._plan, self.own_model = plan, own_model

    def costs_of(self, view: View, models: Sequence[str]) -> Costs:
        """The costs of a view's members, by rank.

        Args:
            view: The members.
            models: Full name of each one's device, by rank.
        """
        standing = [
            Standing(number=member.worker, device=member.device, host=member.host, model=model)
            for member, model in zip(view.members, models, strict=True)
        ]
        return self._job.costs_of(standing, self._plan)


def choose_fitting(wanted: Mapping, costs: Costs) -> Mapping:
    """The mapping that is wanted, or the even one where that breaks a limit of memory, or else the solver's.

    Where no mapping keeps the limits it is the wanted one: see `keeps_limits`.
    """
    if can_hold(costs, wanted):
        return wanted
    even = even_mapping(wanted.virtual_nodes, wanted.world_size)
    return even if can_hold(costs, even) else best_mapping(costs) or wanted


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
