"""Random deaths, resizes, re-mappings and joins in jobs of threads: every step has the bits of one undisturbed worker.

HOLDTRUE_SOAK_SEED=3 HOLDTRUE_SOAK_JOBS=2000 HOLDTRUE_SOAK_OUT=soak.json make soak
"""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from test_elastic_bits import check

from elastic_job import ElasticJob, Fault, Killed
from holdtrue.mapping import even_mapping
from zoo import MODELS, Case, train

JOBS = 400
PHASES = ("exchange", "spread", "gather", "gathered", "form")
"""Places at which a worker of threads can die, or something can be asked for."""


def survivors_without(job: ElasticJob, worker: int) -> list[int]:
    """Workers that would still hold the state in every view under way."""
    views = [{member.worker for member in view.members} for view in job.state.chain]
    return [
        w.number
        for w in job.state.members
        if w.number != worker
        and w.has_state
        and not job.notes[w.number].was_killed
        and all(w.number in view for view in views)
    ]


def kill(worker: int, fired: Counter[str], phase: str) -> Callable[[ElasticJob], None]:
    """The death of a worker, if somebody else has the state."""

    def act(job: ElasticJob) -> None:
        if survivors_without(job, worker):
            fired[f"kill/{phase}"] += 1
            raise Killed

    return act


def resize(workers: int, fired: Counter[str], phase: str) -> Callable[[ElasticJob], None]:
    def act(job: ElasticJob) -> None:
        fired[f"resize/{phase}"] += 1
        job.resize(workers)

    return act


def remap(mapping: str, fired: Counter[str], phase: str) -> Callable[[ElasticJob], None]:
    def act(job: ElasticJob) -> None:
        if len(job.state.members) == mapping.count("/") + 1:
            fired[f"map/{phase}"] += 1
            job.map(mapping)

    return act


def draw_faults(draw: random.Random, case: Case, fired: Counter[str]) -> list[Fault]:
    """A few things that happen at random places; not all of them come to pass."""
    faults = []
    for _ in range(draw.randint(3, 20)):
        worker, phase = draw.randrange(6), draw.choice(PHASES)
        step = -1 if phase == "form" else draw.randrange(-1, 2 * case.epochs)
        kind = draw.choice(["kill", "kill", "kill", "resize", "map"])
        if kind == "kill":
            act = kill(worker, fired, phase)
        elif kind == "resize":
            act = resize(draw.randint(1, 4), fired, phase)
        else:
            act = remap(str(even_mapping(case.virtual_nodes, draw.randint(1, 3))), fired, phase)
        faults.append(
            Fault(worker=worker, step=step, phase=phase, nth=draw.randrange(3), act=act, is_sure=False)
        )
    return faults


def run_one(seed: int, number: int, fired: Counter[str]) -> str:
    """One job.

    Returns:
        What was wrong with it; empty if nothing was.
    """
    draw = random.Random(f"{seed}/{number}")
    case = Case(
        model=draw.choice(MODELS),
        optimizer="adamw",
        virtual_nodes=7,
        epochs=3,
        bucket_bytes=draw.choice([None, 64]),
    )
    faults = draw_faults(draw, case, fired)
    job = ElasticJob(
        lambda: train(case), workers=draw.randint(2, 4), restarts=draw.choice([0, 2, 9]), faults=faults
    )
    try:
        check(case, job)
    except Exception as error:  # noqa: BLE001 - the soak goes on and tells all of them
        return f"job {number}: {type(error).__name__}: {error}"
    return ""


@pytest.mark.soak
def test_random_deaths_and_resizes_in_jobs_of_threads_change_no_bit() -> None:
    seed = int(os.environ.get("HOLDTRUE_SOAK_SEED", time.time_ns() % 2**32))
    jobs = int(os.environ.get("HOLDTRUE_SOAK_JOBS", JOBS))
    until_s = time.monotonic() + float(os.environ.get("HOLDTRUE_SOAK_SECONDS", "inf"))
    print(f"seed {seed}")
    fired: Counter[str] = Counter()
    failures, done = [], 0
    while done < jobs and time.monotonic() < until_s:
        wrong = run_one(seed, done, fired)
        done += 1
        if wrong:
            failures.append(wrong)
            print(wrong, flush=True)
    result = {
        "seed": seed,
        "jobs": done,
        "faults": sum(fired.values()),
        "by_kind": dict(sorted(fired.items())),
    }
    if "HOLDTRUE_SOAK_OUT" in os.environ:
        Path(os.environ["HOLDTRUE_SOAK_OUT"]).write_text(
            json.dumps(result | {"failures": failures}, indent=1)
        )
    print(result)
    assert not failures, "\n".join(failures)
