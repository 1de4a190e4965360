"""From what workers measured to a profile: medians, spreads, and what is left over for the exchange.

Trials of one kind of device come in two sorts. *Alone*, one worker: what a step takes beyond its passes is
the fixed part. *Together*, several workers with equal work: their passes are timed as they will be in a job,
with the other devices busy, and what a step takes beyond the slowest worker's passes and the fixed part is
the exchange.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from holdtrue.errors import UsageError

from ._profile import DeviceProfile, PassPoint

TRIAL_PASSES = 4
"""Virtual nodes of each worker in a trial: enough that additions of the tree are counted with the passes."""

MOST_SIZES = 7
"""Powers of two that are measured, unless sizes are named."""


LOST = "another worker could not run it"
"""The error of a trial that ended with another worker's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one worker measured with one size of pass."""

    batch_size: int
    """Examples in a pass."""
    workers: int
    """Workers that were at work."""
    rank: int
    """Which of them this was."""
    repeat: int
    """Number of the repetition."""
    passes: int
    """Passes of this worker in a step."""
    passes_s: tuple[float, ...]
    """Seconds of all its passes, by step; steps in which it warmed up are left out."""
    steps_s: tuple[float, ...]
    """Seconds of the whole steps, the same steps."""
    peak_bytes: int | None = None
    """Peak memory of the worker; None where that cannot be read."""
    error: str | None = None
    """Why the size could not be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What a worker says of its device and of the script."""

    kind: str
    """Kind of device."""
    name: str
    """Full name of the device."""
    torch_version: str
    """`torch.__version__`."""
    threads: int
    """Intra-op threads."""
    memory_bytes: int | None
    """Memory of the device; None for a CPU, whose memory is shared."""
    model_hash: str
    """Hash of the layout of the model's parameters."""
    gradient_bytes: int
    """Bytes of all gradients once, in the type in which they are added."""
    virtual_nodes: int
    """V as the script, or the command line, has it."""
    global_batch_size: int
    """B as the script, or the command line, has it."""
    numerics: str
    """Level of numerics."""
    type: str = ""
    """`cpu` or `cuda`."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DeviceFacts":  # Any: JSON values
        """The facts that `dataclasses.asdict` wrote."""
        return cls(**values)


def describe_failures(trials: Sequence[Trial]) -> tuple[str, ...]:
    """A sentence for each size that could not be measured, with the reason of the worker that it failed on.

    >>> failed = dict(workers=2, repeat=0, passes=4, passes_s=(), steps_s=(), batch_size=8)
    >>> describe_failures([Trial(rank=0, error=LOST, **failed), Trial(rank=1, error="out of memory", **failed)])
    ('passes of 8 were left out: out of memory (worker 1)',)
    """
    sentences = []
    for size in sorted({t.batch_size for t in trials if t.error}):
        failed = [t for t in trials if t.batch_size == size and t.error]
        own = [t for t in failed if t.error != LOST] or failed
        ranks = sorted({t.rank for t in own})
        where = f" (worker {', '.join(map(str, ranks))})" if len(ranks) < own[0].workers else ""
        sentences.append(f"passes of {size} were left out: {own[0].error}{where}")
    return tuple(sentences)


def sizes_of_interest(global_batch_size: int, virtual_nodes: int) -> tuple[int, ...]:
    """Virtual-node batch sizes to measure: the largest powers of two in B, and the plan's own.

    >>> sizes_of_interest(128, 8), sizes_of_interest(100, 7), sizes_of_interest(1, 1)
    ((2, 4, 8, 16, 32, 64, 128), (1, 2, 4, 8, 15, 16, 32, 64), (1,))
    """
    powers = [1 << bit for bit in range(global_batch_size.bit_length())]
    return tuple(sorted({*powers[-MOST_SIZES:], -(-global_batch_size // virtual_nodes)}))


def assemble_device(
    facts: DeviceFacts, trials: Sequence[Trial], exchanges: Sequence[tuple[int, float]], *, date: str
) -> DeviceProfile:
    """The profile of one kind of device.

    Args:
        facts: What its workers said.
        trials: What all its workers measured.
        exchanges: (bytes that each worker sent and received, seconds) of bare exchanges; may be empty.
        date: Day of the measurement, YYYY-MM-DD.

    Raises:
        UsageError: no size could be measured.
    """
    most = max((t.workers for t in trials), default=1)
    good = [t for t in trials if t.passes_s and t.error is None]
    together = [t for t in good if t.workers == most]
    sizes = sorted({t.batch_size for t in together})
    if not sizes:
        reasons = sorted({t.error for t in trials if t.error} - {LOST})
        raise UsageError(
            f"no pass could be measured on {facts.kind} ({'; '.join(reasons) or 'no step ran'}); a profile needs "
            f"at least one size. Name sizes that the script can train with, such as --batch-sizes 8,16."
        )
    fixed_s = max(0.0, median(_rests(t.steps_s, (t,)) for t in good if t.workers == 1))
    speed, latency_s = fit_exchange(exchanges)
    if most > 1:
        volume = 2 * facts.gradient_bytes * (most - 1) / most
        rests = [
            _rests(own[0].steps_s, own)
            for size in sizes
            for repeat in sorted({t.repeat for t in together if t.batch_size == size})
            if (own := [t for t in together if (t.batch_size, t.repeat) == (size, repeat)])
        ]
        latency_s = max(latency_s, median(rests) - fixed_s - (volume / speed if speed else 0.0))
    points = tuple(_point([t for t in together if t.batch_size == size]) for size in sizes)
    return DeviceProfile(
        kind=facts.kind,
        name=facts.name,
        type=facts.type,
        torch_version=facts.torch_version,
        threads=facts.threads,
        date=date,
        memory_bytes=facts.memory_bytes,
        fixed_s=fixed_s,
        exchange_bytes_per_s=speed,
        exchange_latency_s=max(0.0, latency_s),
        lone_factor=_lone_factor(points, [t for t in good if t.workers < most]),
        points=points,
    )


def _lone_factor(points: Sequence[PassPoint], alone: Sequence[Trial]) -> float:
    """A pass alone over the same pass with others at work, not above 1: a device does not suffer from rest."""
    ratios = [
        median(t.passes_s) / t.passes / point.seconds
        for t in alone
        for point in points
        if point.batch_size == t.batch_size
    ]
    return min(1.0, median(ratios)) if ratios else 1.0


def _rests(steps_s: Sequence[float], workers: Sequence[Trial]) -> float:
    """Seconds of a step beyond the passes of its slowest worker, the median over steps."""
    slowest = [max(passes) for passes in zip(*(t.passes_s for t in workers), strict=False)]
    rest: float = median(step - passes for step, passes in zip(steps_s, slowest, strict=False))
    return rest


def _point(trials: Sequence[Trial]) -> PassPoint:
    """One size of pass: the median of the repeats, each the median of its steps."""
    each = [median(t.passes_s) / t.passes for t in trials]
    peaks = [t.peak_bytes for t in trials if t.peak_bytes is not None]
    middle = median(each)
    return PassPoint(
        batch_size=trials[0].batch_size,
        seconds=middle,
        peak_bytes=max(peaks) if peaks else None,
        spread=(max(each) - min(each)) / middle,
    )


def fit_exchange(exchanges: Sequence[tuple[int, float]]) -> tuple[float | None, float]:
    """Bytes per second and latency of a link, from exchanges of two or more sizes.

    Returns:
        The bandwidth (None where it cannot be told from these) and the seconds of an exchange of no bytes.

    >>> fit_exchange([(1000, 0.002), (1000, 0.002), (9000, 0.010)])
    (1000000.0, 0.001)
    """
    sizes = sorted({size for size, _ in exchanges})
    if len(sizes) < 2:
        return None, 0.0
    small, large = sizes[0], sizes[-1]
    small_s, large_s = (median(s for size, s in exchanges if size == wanted) for wanted in (small, large))
    if large_s <= small_s:
        return None, small_s
    speed = (large - small) / (large_s - small_s)
    return speed, round(max(0.0, small_s - small / speed), 9)
