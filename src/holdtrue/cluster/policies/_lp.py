"""The linear program behind the policies that share time."""

# J jobs, T device types; shares are devices on average.

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Places = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingProblem:
    """Share device time so that the worst-off job has the most."""

    value: Array
    """Value to each job of one device of each type for all of the time, by job and type (J, T)."""
    most: Array
    """Most devices of all types that each job can use on average (J)."""
    devices: Array
    """Devices of each type (T)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """Answer to a `SharingProblem`."""

    level: float
    """Value that every job has at least."""
    share: Array
    """Devices on average, by job and type (J, T)."""


def solve_level(problem: SharingProblem) -> Sharing:
    """Highest level that every job can have, with some shares that reach it.

    Source:
        HiGHS (Huangfu and Hall, 2018) through SciPy, dual simplex.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    J, T = problem.value.shape
    order, columns, starts = _places(J, T)
    entries = np.concatenate([-problem.value.ravel(), np.ones(2 * J * T + J)])[order]
    matrix = csr_array((entries, columns, starts), shape=(2 * J + T, J * T + 1))
    bound = np.concatenate([np.zeros(J), problem.most, problem.devices])
    cost = np.zeros(J * T + 1)
    cost[-1] = -1.0
    answer = linprog(cost, A_ub=matrix, b_ub=bound, bounds=(0, None), method="highs-ds")
    if answer.status != 0:
        raise RuntimeError(f"the sharing program of {J} jobs ended with: {answer.message}")
    share_JT = np.clip(answer.x[: J * T].reshape(J, T), 0.0, None)
    return Sharing(level=float(answer.x[-1]), share=share_JT)


@lru_cache(maxsize=128)  # the last sizes come again; those of thousands of jobs are large
def _places(J: int, T: int) -> tuple[Places, Places, Places]:
    """Places of the entries of: level - value <= 0 by job; devices <= most by job; devices <= number by type.

    Returns:
        The order in which the entries (values negated, then ones) stand in rows, their columns, and where rows begin.
    """
    cell = np.arange(J * T)
    job, kind = cell // T, cell % T
    rows = np.concatenate([job, J + job, 2 * J + kind, np.arange(J)])
    columns = np.concatenate([cell, cell, cell, np.full(J, J * T)])
    order = np.lexsort((columns, rows))
    starts = np.searchsorted(rows[order], np.arange(2 * J + T + 1))
    return order, columns[order], starts
