"""Policies that share time: max-min fairness, finish-time fairness, makespan.

They answer with devices on average; rounds make them real (holdtrue.cluster._rounds).
"""

# J jobs, T device types

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from holdtrue.cluster._jobs import Cluster, Job
from holdtrue.cluster._state import ClusterState, Decision

from ._center import centre_sharing
from ._lp import Array, Sharing, SharingProblem, solve_level


def decide_max_min(state: ClusterState) -> Decision:
    """Max-min fairness that takes all device types for equal (least attained service over time).

    Source:
        Gavel (Narayanan et al., OSDI 2020), section 4.1, without throughputs.
    """
    rate_JT = (_rates(state) > 0).astype(np.float64)
    return _answer(state, _solve(_problem(state, _normalised(state, rate_JT))), "max-min fairness")


def decide_max_min_aware(state: ClusterState) -> Decision:
    """Max-min fairness of throughput relative to an equal share of every type, by weight.

    Source:
        Gavel (Narayanan et al., OSDI 2020), section 4.1.
    """
    sharing = _solve(_problem(state, _normalised(state, _rates(state))))
    return _answer(state, sharing, "max-min fairness, aware of device types")


def decide_max_min_mixed(state: ClusterState) -> Decision:
    """Max-min fairness over what jobs need at least; rounds give what is left, of any type, to jobs that gain by it.

    Shares are computed at `min_devices`: computed at the maximum, jobs that scale badly would be promised many
    devices and waste them under load (docs/results/elasticity-simulated.md).
    """
    return decide_max_min(_at_minimum(state))


def decide_max_min_aware_mixed(state: ClusterState) -> Decision:
    """`decide_max_min_mixed`, aware of device types."""
    return decide_max_min_aware(_at_minimum(state))


def _at_minimum(state: ClusterState) -> ClusterState:
    jobs = (replace(view.job, max_devices=view.job.min_devices) for view in state.jobs)
    views = tuple(replace(view, job=job) for view, job in zip(state.jobs, jobs, strict=True))
    return replace(state, jobs=views)


def decide_makespan(state: ClusterState) -> Decision:
    """Shares under which the last job ends first.

    Source:
        Gavel (Narayanan et al., OSDI 2020), section 4.2, minimum makespan.
    """
    left_J = np.array([max(view.remaining(state.now_s), 1e-9) for view in state.jobs])
    sharing = _solve(_problem(state, _rates(state) / left_J[:, None] * 1e3))
    return _answer(state, sharing, "minimum makespan")


def decide_finish_time(state: ClusterState) -> Decision:
    """Shares under which the worst ratio of finish time to finish time on an equal share is least.

    Source:
        Themis (Mahajan et al., NSDI 2020) as written in Gavel (Narayanan et al., OSDI 2020), section 4.2.
    """
    rate_JT = _rates(state)
    left_J = np.array([max(view.remaining(state.now_s), 1e-9) for view in state.jobs])
    spent_J = np.array([state.now_s - view.job.arrival_s for view in state.jobs])
    alone_J = np.array([view.isolated_s for view in state.jobs]) + left_J / _isolated(state, rate_JT)

    def within(ratio: float) -> Array:
        seconds_J: Array = np.maximum(ratio * alone_J - spent_J, 1e-9)
        return seconds_J

    def problem_at(ratio: float) -> SharingProblem:
        return _problem(state, rate_JT * within(ratio)[:, None] / left_J[:, None])

    def enough(ratio: float, level: float) -> float:
        return float(np.max((spent_J + within(ratio) / level) / alone_J))

    low = float(np.max((spent_J + left_J / rate_JT.max(axis=1) / _most(state)) / alone_J))
    ratio, sharing = _least_ratio(problem_at, enough, low)
    decision = _answer(state, centre_sharing(problem_at(ratio), sharing), "finish-time fairness")
    return Decision(shares=decision.shares, reason=f"{decision.reason}; worst ratio {ratio:.3f}")


def _solve(problem: SharingProblem) -> Sharing:
    return centre_sharing(problem, solve_level(problem))


def _least_ratio(
    problem_at: Callable[[float], SharingProblem], enough: Callable[[float, float], float], low: float
) -> tuple[float, Sharing]:
    """Least ratio, to 0.1 per cent, at which every job can reach its target (level 1), and shares that do.

    Each program costs milliseconds, so few are solved. The level rises at least in proportion to the ratio: where it is
    at most 0.1 per cent above 1, so is the ratio above the least. Between a ratio that is too low and one that is enough:
    regula falsi with the Illinois step, aimed at the middle of that 0.1 per cent of the level.

    Args:
        problem_at: The program at a ratio.
        enough: From a ratio and its level, a ratio at which the level is 1 or more.
        low: At most the least ratio.
    """
    low *= 1 + 1e-9
    answer = solve_level(problem_at(low))
    if answer.level >= 1.0:
        return low, answer
    miss, high = answer.level - 1.0, enough(low, answer.level) * (1 + 1e-6)
    answer = solve_level(problem_at(high))
    while answer.level < 1.0:  # by rounding alone
        high *= 1 + 1e-3
        answer = solve_level(problem_at(high))
    gain = answer.level - 1.0
    was_enough: bool | None = None
    while high - low > _NEAR * high and answer.level > 1.0 + _NEAR:
        middle = low + (high - low) * (_NEAR / 2 - miss) / (gain - miss)
        middle = min(low + 0.95 * (high - low), max(low + 0.05 * (high - low), middle))
        trial = solve_level(problem_at(middle))
        is_enough = trial.level >= 1.0
        if is_enough:
            high, gain, answer = middle, trial.level - 1.0, trial
            miss /= 2 if was_enough is True else 1  # the other end stayed twice: it weighs less
        else:
            low, miss = middle, trial.level - 1.0
            gain /= 2 if was_enough is False else 1
        was_enough = is_enough
    return high, answer


_NEAR = 1e-3


def isolated_rates(state: ClusterState) -> tuple[float, ...]:
    """Steps per second of each job on an equal share of every device type, in order of arrival."""
    return tuple(float(x) for x in _isolated(state, _rates(state)))


def _rates(state: ClusterState) -> Array:
    """Steps per second per device, by job and type, at each job's demand."""
    return np.array([_rates_of(view.job, state.cluster) for view in state.jobs])


def _rates_of(job: Job, cluster: Cluster) -> list[float]:
    n = job.max_devices
    return [job.rates.at(k, n) / n for k in cluster.kinds]


def _most(state: ClusterState) -> Array:
    return np.array([v.job.max_devices * v.job.percent / 100 for v in state.jobs])


def _problem(state: ClusterState, value_JT: Array) -> SharingProblem:
    devices_T = np.array([float(n) for _, n in state.cluster.devices])
    return SharingProblem(value=value_JT, most=_most(state), devices=devices_T)


def _equal_share(state: ClusterState) -> tuple[Array, Array]:
    """Devices of each type in an equal share, and the part of it that each job can use."""
    devices_T = np.array([float(n) for _, n in state.cluster.devices]) / len(state.jobs)
    return devices_T, np.minimum(1.0, _most(state) / devices_T.sum())


def _isolated(state: ClusterState, rate_JT: Array) -> Array:
    devices_T, usable_J = _equal_share(state)
    alone: Array = (rate_JT @ devices_T) * usable_J
    return alone


def _normalised(state: ClusterState, rate_JT: Array) -> Array:
    devices_T, _ = _equal_share(state)
    weight_J = np.array([view.job.weight for view in state.jobs])
    value: Array = rate_JT / ((rate_JT @ devices_T) * weight_J)[:, None]
    return value


def _answer(state: ClusterState, sharing: Sharing, rule: str) -> Decision:
    shares = {
        view.job.id: tuple(float(x) for x in row) for view, row in zip(state.jobs, sharing.share, strict=True)
    }
    return Decision(shares=shares, reason=f"{rule} over {len(state.jobs)} jobs; level {sharing.level:.4g}")
