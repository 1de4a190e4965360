"""The linear program behind the policies that share time: one answer, by a second stage."""

# J jobs, T device types; shares are devices on average.

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingProblem:
    """Share device time so that the worst-off job has the most."""

    value_JT: Array
    """Value to each job of one device of each type for all of the time."""
    most_J: Array
    """Most devices of all types that each job can use on average."""
    devices_T: Array
    """Devices of each type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """Answer to a `SharingProblem`."""

    level: float
    """Value that every job has at least."""
    share_JT: Array
    """Devices on average, by job and type."""


def solve_level(problem: SharingProblem) -> Sharing:
    """Highest level that every job can have, with some shares that reach it."""
    return _solve(problem, None)


def solve_sharing(problem: SharingProblem) -> Sharing:
    """Highest level that every job can have, and among its shares those of the most value in all.

    Guarantee:
        The second stage prefers earlier jobs and types where the value is equal, so that a schedule is one answer.
    """
    return solve_rest(problem, solve_level(problem))


def solve_rest(problem: SharingProblem, first: Sharing) -> Sharing:
    """Shares of the most value in all that keep every job at the level of `first`."""
    rest = _solve(problem, first.level * (1 - 1e-7))
    return Sharing(level=first.level, share_JT=rest.share_JT)


def _solve(problem: SharingProblem, floor: float | None) -> Sharing:
    """First stage (floor None): maximise the level. Second stage: maximise the sum above the floor."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    value_JT = problem.value_JT
    J, T = value_JT.shape
    rows, columns, entries = _constraints(value_JT, with_level=floor is None)
    width = J * T + (1 if floor is None else 0)
    matrix = csr_array((entries, (rows, columns)), shape=(2 * J + T, width))
    bound = np.concatenate([np.full(J, 0.0 if floor is None else -floor), problem.most_J, problem.devices_T])
    cost = np.zeros(width)
    if floor is None:
        cost[-1] = -1.0
    else:
        early_J = 1.0 + 1e-3 * (J - np.arange(J)) / J
        cost = -(value_JT * early_J[:, None]).ravel()
    answer = linprog(cost, A_ub=matrix, b_ub=bound, bounds=(0, None), method="highs-ds")
    if answer.status != 0:
        raise RuntimeError(f"the sharing program of {J} jobs ended with: {answer.message}")
    share_JT = np.clip(answer.x[: J * T].reshape(J, T), 0.0, None)
    return Sharing(level=float(answer.x[-1]) if floor is None else floor, share_JT=share_JT)


def _constraints(value_JT: Array, *, with_level: bool) -> tuple[Array, Array, Array]:
    """Coordinates of: level - value <= 0 by job; devices <= most by job; devices <= number by type."""
    J, T = value_JT.shape
    cell = np.arange(J * T)
    job, kind = cell // T, cell % T
    rows = [job, J + job, 2 * J + kind]
    columns = [cell, cell, cell]
    entries = [-value_JT.ravel(), np.ones(J * T), np.ones(J * T)]
    if with_level:
        rows.append(np.arange(J))
        columns.append(np.full(J, J * T))
        entries.append(np.ones(J))
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(entries)
