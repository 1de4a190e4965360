"""Small jobs explored exhaustively: every order of messages, steps and faults.

What is asserted of every world is in `elastic_world`: one view for each generation, a member with the state kept by each,
survivors at most one step apart, no step lost or repeated, no number given twice. Here: every path ends, and how.
"""

import random
from collections import deque
from dataclasses import dataclass

import pytest
from elastic_world import ENDED, BrokenPromiseError, Faults, World, begin, found, moves

from holdtrue.elastic import JobSettings


@dataclass(frozen=True, kw_only=True)
class Explored:
    """What an exploration found."""

    worlds: int
    ends: dict[str, int]
    """Worlds in which nothing can happen any more, by how the job ended."""


def explore(start: World, *, most: int) -> Explored:
    """Every world that can be reached, breadth first; the path to a broken promise is in its error."""
    came_from: dict[World, tuple[World, str] | None] = {start: None}
    queue = deque([start])
    ends: dict[str, int] = {}
    while queue:
        world = queue.popleft()
        stuck = True
        try:
            for name, after in moves(world):
                stuck = False
                if after not in came_from:
                    came_from[after] = (world, name)
                    queue.append(after)
        except (AssertionError, BrokenPromiseError) as error:
            raise AssertionError(f"{error}\n{path_to(world, came_from)}") from error
        if stuck:
            how = judge_end(world)
            if how.startswith("stuck"):
                raise AssertionError(f"{how}\n{path_to(world, came_from)}\n{world}")
            ends[how] = ends.get(how, 0) + 1
        assert len(came_from) <= most, f"more than {most} worlds: make the case smaller"
    return Explored(worlds=len(came_from), ends=ends)


def judge_end(world: World) -> str:
    """How a job ended in a world where nothing can happen any more; `stuck` if that must not be."""
    control = world.control
    if control.phase != "over":
        return "stuck: the job is not over"
    living = [w.number for w in world.workers if w.is_alive and not w.is_stopped and w.doing != ENDED]
    if living:
        return f"stuck: workers {living} go on after the job"
    if control.how_over == "failed" and not world.killed:
        return f"stuck: failed without a death: {control.over_reason}"
    if control.how_over == "finished" and world.furthest != world.last_step:
        return f"stuck: finished at step {world.furthest}"
    return f"failed: {control.over_reason}" if control.how_over == "failed" else str(control.how_over)


def path_to(world: World, came_from: dict[World, tuple[World, str] | None]) -> str:
    """The moves that led to a world."""
    names = []
    step = came_from[world]
    while step is not None:
        names.append(step[1])
        step = came_from[step[0]]
    return " > ".join(reversed(names))


def settings(workers: int) -> JobSettings:
    return JobSettings(name="model", workers=workers, least=workers, group_timeout_s=30.0)


CASES = {
    "nothing happens to 2": (2, Faults(), 2),
    "one of 2 is killed": (2, Faults(kills=1), 2),
    "one of 2 is killed, and ends are slow": (2, Faults(kills=1, quick_ends=False), 1),
    "two of 2 are killed": (2, Faults(kills=2), 1),
    "two resizes of 1": (1, Faults(resizes=(2, 1)), 2),
    "2 shrink to 1 and one is killed": (2, Faults(resizes=(1,), kills=1), 1),
    "one of 2 leaves and one is killed": (2, Faults(leaves=1, kills=1), 1),
    "both of 2 leave": (2, Faults(leaves=2), 1),
    "1 leaves while another joins": (1, Faults(resizes=(2,), leaves=1), 2),
    "one of 2 is stopped and one is killed": (2, Faults(stops=1, kills=1), 1),
    "the controller dies and one of 2 is killed": (2, Faults(restarts=1, kills=1), 1),
    "the controller dies while 1 grows to 2": (1, Faults(restarts=1, resizes=(2,)), 1),
    "a connection breaks and one of 2 is killed": (2, Faults(drops=1, kills=1), 1),
    "a connection breaks while 1 grows to 2": (1, Faults(drops=1, resizes=(2,)), 2),
    "the host's connection breaks while 1 grows to 2": (1, Faults(host_cuts=1, resizes=(2,)), 1),
    "the host's connection breaks while 1 grows to 2 and one is killed": (
        1,
        Faults(host_cuts=1, resizes=(2,), kills=1),
        1,
    ),
    "1 grows to 2 and no device is free twice": (1, Faults(resizes=(2,), no_starts=2), 2),
    "1 grows to 2, no device is free, and the host's connection breaks": (
        1,
        Faults(resizes=(2,), no_starts=1, host_cuts=1),
        1,
    ),
    "1 grows to 2, no device is free, and the controller dies": (
        1,
        Faults(resizes=(2,), no_starts=1, restarts=1),
        1,
    ),
    "2 grow to 3": (2, Faults(resizes=(3,)), 1),
    "1 grows to 2 and one is killed": (1, Faults(resizes=(2,), kills=1), 2),
    "2 shrink to 1": (2, Faults(resizes=(1,)), 2),
    "one of 2 leaves": (2, Faults(leaves=1), 2),
    "one of 2 is stopped": (2, Faults(stops=1), 1),
    "the controller of 2 dies": (2, Faults(restarts=1), 1),
    "2 are asked to stop": (2, Faults(asks_to_stop=1), 2),
    "1 is asked to stop, the controller dies, and ends are slow": (
        1,
        Faults(asks_to_stop=1, restarts=1, quick_ends=False),
        2,
    ),
    "2 are re-mapped": (2, Faults(remaps=1), 2),
}


SLOW_CASES = {
    "2 are asked to stop, the controller dies, and ends are slow": (
        2,
        Faults(asks_to_stop=1, restarts=1, quick_ends=False),
        1,
    ),
    "one of 3 is killed": (3, Faults(kills=1), 1),
    "two resizes of 2": (2, Faults(resizes=(3, 1)), 1),
    "one of 3 is stopped": (3, Faults(stops=1), 1),
    "2 are re-mapped and one is killed": (2, Faults(remaps=1, kills=1), 1),
    "2 are re-mapped while they shrink to 1": (2, Faults(remaps=1, resizes=(1,)), 1),
    "2 are re-mapped and the controller dies": (2, Faults(remaps=1, restarts=1), 1),
    "the controller dies while 1 grows to 2, two steps": (1, Faults(restarts=1, resizes=(2,)), 2),
    "the controller dies while 2 shrink to 1": (2, Faults(restarts=1, resizes=(1,)), 1),
}
LARGE_CASES = {
    "two of 3 are killed": (3, Faults(kills=2), 3),
    "3 grow and shrink, and two are killed": (3, Faults(resizes=(4, 2), kills=2), 4),
    "2 are asked to stop, the controller dies twice, and ends are slow": (
        2,
        Faults(kills=1, drops=1, restarts=2, asks_to_stop=1, quick_ends=False),
        4,
    ),
    "everything happens to 2": (2, Faults(1, 1, (3, 1, 2), 1, 1, 1, host_cuts=2), 5),
    "everything happens to 3": (3, Faults(2, 1, (4, 2), 1, 2, 2, quick_ends=False, remaps=3, host_cuts=2), 5),
    "2 grow and shrink, one is killed, and devices are seldom free": (
        2,
        Faults(kills=1, resizes=(3, 2, 4), restarts=1, host_cuts=1, no_starts=6),
        4,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_path_ends_and_keeps_the_promises(case: str) -> None:
    workers, faults, last_step = CASES[case]
    explored = explore(found(settings(workers), faults, last_step=last_step), most=150_000)
    assert explored.ends


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW_CASES)
def test_every_path_of_larger_jobs_ends_and_keeps_the_promises(case: str) -> None:
    workers, faults, last_step = SLOW_CASES[case]
    assert explore(found(settings(workers), faults, last_step=last_step), most=300_000).ends


def walk(start: World, seed: int) -> str:
    """How one random path ended."""
    choose = random.Random(seed)
    world, names = start, []
    for _ in range(5_000):
        try:
            # Faults come late enough to find something under way, and seldom enough for steps between them.
            options = list(moves(world))
            if not options:
                how = judge_end(world)
                assert not how.startswith("stuck"), how
                return how
            ordinary = [option for option in options if not option[0][:1].isupper()]
            name, world = choose.choice(ordinary if ordinary and choose.random() < 0.93 else options)
        except (AssertionError, BrokenPromiseError) as error:
            raise AssertionError(f"seed {seed}: {error}\n{' > '.join(names)}") from error
        names.append(name)
    raise AssertionError(f"seed {seed}: no end after 5000 moves\n{' > '.join(names[-60:])}")


@pytest.mark.parametrize("case", LARGE_CASES)
def test_random_paths_of_large_jobs_end_and_keep_the_promises(case: str) -> None:
    workers, faults, last_step = LARGE_CASES[case]
    start = found(settings(workers), faults, last_step=last_step)
    ends = [walk(start, seed) for seed in range(60)]
    assert any(how == "finished" for how in ends)


@pytest.mark.slow
@pytest.mark.parametrize("case", LARGE_CASES)
def test_thousands_of_random_paths_end_and_keep_the_promises(case: str) -> None:
    workers, faults, last_step = LARGE_CASES[case]
    start = found(settings(workers), faults, last_step=last_step)
    for seed in range(1_000, 6_000):
        walk(start, seed)


def test_every_founding_ends_and_keeps_the_promises() -> None:
    explored = explore(begin(settings(2), Faults(kills=1), last_step=0), most=60_000)
    assert explored.ends
