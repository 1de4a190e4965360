"""The tie-break: of all shares that are equally good for the worst-off job, the one in the middle.

A linear program often has many answers, and which one a solver returns depends on its version and on the order of
the jobs. The analytic centre is one point, does not depend on that order, and favours no type without cause.
"""

# J jobs, T device types; s_* are slacks of the constraints

from dataclasses import dataclass

import numpy as np

from ._lp import Array, Sharing, SharingProblem

_SLACK = 1e-3
"""How far below the best level the centre may go, relative; 0 would leave no room for a centre."""
_STEPS = 60
_DONE = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slacks:
    """Distances to the constraints; all positive inside."""

    level: Array
    most: Array
    devices: Array


def centre_sharing(problem: SharingProblem, best: Sharing) -> Sharing:
    """Analytic centre of the shares that leave every job at the level of `best`, or 0.1 per cent below it.

    Guarantee:
        Unique; shares are rounded to 1e-6 devices, so that jobs that are alike get the same.

    Source:
        Damped Newton steps on the sum of the logarithms of all slacks (Boyd and Vandenberghe, Convex Optimization,
        sections 8.5 and 9.5). The Hessian is one block per job plus one rank per type, so a step costs O(J).
    """
    floor = best.level * (1 - _SLACK)
    share_JT = _inside(problem, best)
    for _ in range(_STEPS):
        slacks = _slacks(problem, share_JT, floor)
        move_JT, gain = _newton_step(problem, share_JT, slacks)
        if gain < _DONE:
            break
        share_JT = share_JT + _step_length(problem, share_JT, move_JT, slacks, gain) * move_JT
    return Sharing(level=best.level, share=np.round(share_JT, 6))


def _inside(problem: SharingProblem, best: Sharing) -> Array:
    """A point strictly inside all constraints, near `best`."""
    share_JT: Array = best.share * (1 - _SLACK / 2)
    J, T = share_JT.shape
    room = min(
        float((problem.most - share_JT.sum(axis=1)).min()) / (T + 1),
        float((problem.devices - share_JT.sum(axis=0)).min()) / (J + 1),
    )
    inside: Array = share_JT + 0.9 * room
    return inside


def _slacks(problem: SharingProblem, share_JT: Array, floor: float) -> _Slacks:
    return _Slacks(
        level=(problem.value * share_JT).sum(axis=1) - floor,
        most=problem.most - share_JT.sum(axis=1),
        devices=problem.devices - share_JT.sum(axis=0),
    )


def _newton_step(problem: SharingProblem, share_JT: Array, slacks: _Slacks) -> tuple[Array, float]:
    """Newton direction, and its expected gain."""
    value_JT, T = problem.value, share_JT.shape[1]
    gradient_JT = (
        1 / share_JT
        + value_JT / slacks.level[:, None]
        - 1 / slacks.most[:, None]
        - 1 / slacks.devices[None, :]
    )
    scaled_JT = value_JT / slacks.level[:, None]
    block_JTT = scaled_JT[:, :, None] * scaled_JT[:, None, :] + (1 / slacks.most**2)[:, None, None]
    block_JTT[:, np.arange(T), np.arange(T)] += 1 / share_JT**2
    inverse_JTT = np.linalg.inv(block_JTT)
    own_JT = np.einsum("jab,jb->ja", inverse_JTT, gradient_JT)
    coupling_TT = np.diag(slacks.devices**2) + inverse_JTT.sum(axis=0)
    price_T = np.linalg.solve(coupling_TT, own_JT.sum(axis=0))
    move_JT: Array = own_JT - np.einsum("jab,b->ja", inverse_JTT, price_T)
    return move_JT, float((gradient_JT * move_JT).sum())


def _step_length(
    problem: SharingProblem, share_JT: Array, move_JT: Array, slacks: _Slacks, gain: float
) -> float:
    """Length of a step that stays inside: full near the centre, else by bisection on the derivative."""
    now = np.concatenate([share_JT.ravel(), slacks.level, slacks.most, slacks.devices])
    change = np.concatenate(
        [
            move_JT.ravel(),
            (problem.value * move_JT).sum(axis=1),
            -move_JT.sum(axis=1),
            -move_JT.sum(axis=0),
        ]
    )
    falls = change < 0
    longest = float((now[falls] / -change[falls]).min()) if falls.any() else 1.0
    if gain < 0.25:
        return min(1.0, 0.99 * longest)
    low, high = 0.0, 0.999 * longest
    for _ in range(12):
        middle = (low + high) / 2
        rises = float((change / (now + middle * change)).sum()) > 0
        low, high = (middle, high) if rises else (low, middle)
    return low or high
