"""Differences between two sets of named values."""

from collections.abc import Mapping
from dataclasses import dataclass

from holdtrue.plan import Plan

from ._files import Json, to_plain

ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A name under which two sides hold unlike values.

    >>> str(Difference(key="seed", a="0", b="1"))
    'seed: 0 against 1'
    """

    key: str
    """Name of the value; nested names are parted by dots."""
    a: str
    """Text of the first side's value, or `absent`."""
    b: str
    """Text of the second side's value, or `absent`."""

    def __str__(self) -> str:
        return f"{self.key}: {self.a} against {self.b}"


def plan_differences(a: Plan, b: Plan) -> tuple[Difference, ...]:
    """Fields in which two plans differ, in the order of the plan.

    >>> p = Plan(virtual_nodes=4, global_batch_size=8)
    >>> [str(d) for d in plan_differences(p, Plan(virtual_nodes=8, global_batch_size=8))]
    ['virtual_nodes: 4 against 8']
    """
    return value_differences(a.to_dict(), b.to_dict())


def value_differences(a: Mapping[str, Json], b: Mapping[str, Json]) -> tuple[Difference, ...]:
    """Names under which two nested mappings differ: those of `a` in its order, then those only in `b`.

    >>> [str(d) for d in value_differences({"torch": {"threads": 1}}, {"torch": {"threads": 2}, "gpu": None})]
    ['torch.threads: 1 against 2', 'gpu: absent against None']
    """
    flat_a, flat_b = _flatten(a, ""), _flatten(b, "")
    return tuple(
        Difference(key=key, a=flat_a.get(key, ABSENT), b=flat_b.get(key, ABSENT))
        for key in dict.fromkeys((*flat_a, *flat_b))
        if flat_a.get(key, ABSENT) != flat_b.get(key, ABSENT)
    )


def _flatten(values: Mapping[str, Json], prefix: str) -> dict[str, str]:
    """Text of every value that is not a mapping, by its dotted name; lists are values."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else str(to_plain(value))
    return flat
