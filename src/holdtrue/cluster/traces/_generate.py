"""Made traces: Poisson arrivals, durations and demands drawn from a seed."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from holdtrue.cluster._jobs import Job, Rates
from holdtrue.errors import UsageError

from ._gavel import Throughputs


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorOptions:
    """What a made trace looks like.

    Raises:
        UsageError: a field is out of its range.
    """

    jobs: int = 100
    """Number of jobs."""
    per_hour: float = 6.0
    """Mean arrivals per hour."""
    seed: int = 0
    """Seed; equal options give equal traces on every machine."""
    demands: tuple[tuple[int, float], ...] = ((1, 0.7), (2, 0.1), (4, 0.15), (8, 0.05))
    """(devices, weight): how often jobs ask for how many devices."""
    weights: tuple[float, ...] = (1.0, 5.0, 10.0)
    """Weights, drawn evenly."""
    shortest_s: float = 1800.0
    """Shortest duration at full demand; 80 of 100 jobs lie between it and 33 times as long."""

    def __post_init__(self) -> None:
        if (
            self.jobs < 1
            or self.per_hour <= 0
            or self.shortest_s <= 0
            or not self.demands
            or not self.weights
        ):
            raise UsageError(
                f"the generator is asked for {self.jobs} jobs, {self.per_hour} per hour, of {self.shortest_s} s and "
                "more; all must be positive. Write generate:jobs=100,per_hour=6,seed=0."
            )


def generate_trace(options: GeneratorOptions, throughputs: Throughputs | None = None) -> tuple[Job, ...]:
    """Jobs drawn from the seed; with Gavel's throughputs, of its models on its device types.

    Durations are 10 ** u times the shortest, u even in 0 to 1.5 for 80 of 100 jobs and 1.5 to 2.5 for the rest: the
    form of Gavel's own generator. With throughputs, a duration is meant on the first type of the table that has it.

    >>> len(generate_trace(GeneratorOptions(jobs=3, seed=1)))
    3
    """
    source = random.Random(options.seed)
    now_s = 0.0
    jobs = []
    for i in range(options.jobs):
        demand = _draw(source, options.demands)
        spread = source.random() * 1.5 if source.random() < 0.8 else 1.5 + source.random()
        duration_s = options.shortest_s * math.pow(10.0, spread)
        weight = options.weights[int(source.random() * len(options.weights))]
        kind, rates, rate = _model(source, demand, throughputs)
        jobs.append(
            Job(
                id=str(i),
                arrival_s=now_s,
                work=max(1.0, float(round(duration_s * rate))),
                rates=rates,
                min_devices=demand if throughputs else 1,
                max_devices=demand,
                weight=weight,
                kind=kind,
            )
        )
        now_s += -math.log(1.0 - source.random()) * 3600.0 / options.per_hour
    return tuple(jobs)


def _draw(source: random.Random, choices: Sequence[tuple[int, float]]) -> int:
    point = source.random() * math.fsum(weight for _, weight in choices)
    for value, weight in choices:
        point -= weight
        if point < 0:
            return value
    return choices[-1][0]


def _model(source: random.Random, demand: int, throughputs: Throughputs | None) -> tuple[str, Rates, float]:
    """Kind, rates, and the rate that durations are meant for."""
    if throughputs is None:
        return "made", Rates(by_type=(("*", ((demand, 1.0),)),)), 1.0
    fitting = sorted(
        model
        for model, rates in throughputs.items()
        if all(any(n == demand for n, _ in points) for _, points in rates.by_type)
    )
    if not fitting:
        raise UsageError(
            f"no model has throughputs for {demand} devices; demands must be in the table. Change them."
        )
    model = fitting[int(source.random() * len(fitting))]
    rates = throughputs[model]
    return model, rates, max(rates.at(kind, demand) for kind, _ in rates.by_type)


def parse_generator(text: str) -> GeneratorOptions:
    """Options from `generate:jobs=100,per_hour=6,seed=0`.

    Raises:
        UsageError: an unknown name or a value that is no number.

    >>> parse_generator("generate:jobs=5,seed=3").jobs
    5
    """
    values: dict[str, float] = {}
    for part in filter(None, text.removeprefix("generate:").split(",")):
        key, _, value = part.partition("=")
        try:
            if key.strip() not in ("jobs", "per_hour", "seed", "shortest_s"):
                raise ValueError
            values[key.strip()] = float(value)
        except ValueError:
            raise UsageError(
                f"the trace {text!r} has the part {part!r}; a made trace is written "
                "generate:jobs=100,per_hour=6,seed=0,shortest_s=1800. Correct it."
            ) from None
    base = GeneratorOptions()
    return GeneratorOptions(
        jobs=int(values.get("jobs", base.jobs)),
        per_hour=values.get("per_hour", base.per_hour),
        seed=int(values.get("seed", base.seed)),
        shortest_s=values.get("shortest_s", base.shortest_s),
    )
