"""The plan: what never changes while a job lives."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from holdtrue.errors import PlanError
from holdtrue.units import MOST_IDS

from ._division import divide_batch

NumericsLevel = Literal["exact", "portable", "fast"]
NUMERICS_LEVELS: tuple[str, ...] = get_args(NumericsLevel)
BufferRule = Literal["mean", "sum", "max", "min", "first", "per_node"]
BUFFER_RULES: tuple[str, ...] = get_args(BufferRule)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is computed, whatever the devices.

    Raises:
        PlanError: a field is out of its range; the message gives the rule.

    >>> Plan(virtual_nodes=4, global_batch_size=10).ranges(10)
    ((0, 2), (2, 5), (5, 7), (7, 10))
    """

    virtual_nodes: int
    """V: fixed slices of every global batch, 1 to 2**20; the largest useful number of devices."""
    global_batch_size: int
    """B: examples in a step, at least V."""
    seed: int = 0
    """Seed of every random stream of the run, 0 to 2**63 - 1."""
    numerics: NumericsLevel = "exact"
    """What is promised about bits; see docs/guarantees.md."""
    weight_unit: float = 0.0
    """Weight of a pass (items) that scales its loss by exactly 1; 0 stands for B / V."""
    buffers: tuple[tuple[str, BufferRule], ...] = field(default=())
    """(pattern, rule) pairs for buffers that passes change in unlike ways; first match wins."""

    def __post_init__(self) -> None:
        for name in ("virtual_nodes", "global_batch_size", "seed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise PlanError(f"{name} is {value!r}; it must be a whole number. Pass an int.")
        if self.virtual_nodes < 1:
            raise PlanError(
                f"virtual_nodes is {self.virtual_nodes}; a plan has at least 1. Pass virtual_nodes=1 or more."
            )
        if self.virtual_nodes > MOST_IDS:
            raise PlanError(
                f"virtual_nodes is {self.virtual_nodes}; a plan has at most {MOST_IDS}. Pass fewer: each is a pass in every step."
            )
        if self.global_batch_size < self.virtual_nodes:
            raise PlanError(
                f"global_batch_size is {self.global_batch_size} and virtual_nodes is {self.virtual_nodes}; every virtual "
                f"node needs at least one example of a full batch. Lower virtual_nodes to {self.global_batch_size} or "
                f"fewer, or raise global_batch_size to {self.virtual_nodes} or more."
            )
        if not 0 <= self.seed < 2**63:
            raise PlanError(f"seed is {self.seed}; it must be from 0 to 2**63 - 1. Pass such a number.")
        if self.numerics not in NUMERICS_LEVELS:
            raise PlanError(
                f"numerics is {self.numerics!r}; the levels are {', '.join(NUMERICS_LEVELS)}. Pass one of them."
            )
        if not (self.weight_unit == 0.0 or 0.0 < self.weight_unit < float("inf")):
            raise PlanError(
                f"weight_unit is {self.weight_unit}; it must be a positive number of items. "
                f"Leave it out for global_batch_size / virtual_nodes."
            )
        for pattern, rule in self.buffers:
            if rule not in BUFFER_RULES:
                raise PlanError(
                    f"buffers[{pattern!r}] is {rule!r}; the rules are {', '.join(BUFFER_RULES)}. Pass one of them."
                )

    @property
    def unit(self) -> float:
        """Weight of a pass, in items, whose loss is scaled by exactly 1."""
        return self.weight_unit or self.global_batch_size / self.virtual_nodes

    def ranges(self, examples: int) -> tuple[tuple[int, int], ...]:
        """Half-open range of each virtual node in a batch of `examples`, counted from the batch's start."""
        return divide_batch(examples, self.virtual_nodes)

    def to_dict(self) -> dict[str, Any]:  # Any: the values that JSON can hold
        """The plan as JSON values, for `plan.json`; `Plan.from_dict` reads it back."""
        return asdict(self) | {"buffers": [list(pair) for pair in self.buffers]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Plan":  # Any: JSON values
        """The plan that `to_dict` wrote.

        Raises:
            PlanError: a key is unknown or missing.
        """
        known = set(cls.__dataclass_fields__)
        unknown, missing = (
            sorted(set(values) - known),
            sorted({"virtual_nodes", "global_batch_size"} - set(values)),
        )
        if unknown or missing:
            raise PlanError(
                f"a plan with unknown keys {unknown} and missing keys {missing}; the keys are {sorted(known)}. "
                f"The file was written by another version of holdtrue, or edited."
            )
        return cls(**{**values, "buffers": tuple((p, r) for p, r in values.get("buffers", ()))})
