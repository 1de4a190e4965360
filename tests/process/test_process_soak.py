"""Random kills, stops, resizes and joins while real jobs train: every digest is that of one undisturbed worker.
The controllers are killed too.

    HOLDTRUE_SOAK_SEED=3 HOLDTRUE_SOAK_FAULTS=200 HOLDTRUE_SOAK_OUT=soak.json make soak

Dead workers are replaced. Somebody who has the state is always left: a kill is ordered where at least two do.
"""

import contextlib
import json
import os
import platform
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from elastic_jobs import ElasticJob, kill_9, members_of, step_of
from faulty_jobs import Undisturbed, differences, mark, read_undisturbed, start
from faulty_train import MARKS, PHASES

pytestmark = [pytest.mark.process, pytest.mark.soak]

FAULTS = 200
STEPS, PACE_S, TIMEOUT_S = 400, 0.04, 8
PLACES = (*PHASES, "form", "formed", "give", "take")
LOOK_S, ORDER_S = 0.02, 1.5
RESIZES, ENDED_BY_RULE = "resizes", "jobs ended by the rule of a pass that kills two in a row"
CONTROLLERS = "SIGKILL/controller"
MOST_CONTROLLERS = 3
"""Controllers of one job that are killed: after five in a minute none is started again."""


class Driver:
    """Disturbs one job until it ends.

    Args:
        job: The job.
        draw: Draws what happens.
        faults: Counts them, by kind and phase.
    """

    def __init__(self, job: ElasticJob, draw: random.Random, faults: Counter[str]) -> None:
        self._job, self._draw, self._faults = job, draw, faults
        self.dead: set[int] = set()
        self._stopped: list[int] = []
        self._fired: set[int] = set()
        self._controllers = 0

    def drive(self, until_s: float) -> None:
        """Disturb the job; one that does not end in time is a failure of its own."""
        while self._job.process.poll() is None:
            assert time.monotonic() < until_s, f"the job did not end; {self._job.facts()}"
            time.sleep(self._draw.uniform(0, 0.5))
            facts = self._job.facts()
            if not facts or step_of(facts) > STEPS - 60:
                time.sleep(LOOK_S)
                continue
            self._read_marks()
            standing = [m for m in members_of(facts) if m["generation"] == facts["generation"]]
            living = [m for m in standing if m["worker"] not in self.dead]
            if len(living) == len(members_of(facts)) and len(living) >= 2:
                self._disturb(living, is_settled=len(living) == facts["target"])

    def _disturb(self, members: list[dict[str, Any]], *, is_settled: bool) -> None:
        kinds = {"order": 10, "kill": 3, "two": 2, "stop": 1, "resize": 4, "controller": 2}
        kind = self._draw.choices(list(kinds), list(kinds.values()))[0]
        may_be_two = kind == "two" and is_settled and len(members) > 2
        victims = self._draw.sample(members, 2 if may_be_two else 1)
        if kind == "resize":
            with contextlib.suppress(Exception):  # refused where the job is about to end
                self._job.client().resize(self._draw.randint(2, 4))
                self._faults[RESIZES] += 1
        elif kind == "controller":
            self._kill_controller()
        elif kind in ("kill", "stop"):
            self._send(victims[0], signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        else:
            self._order([victim["worker"] for victim in victims])

    def _send(self, member: dict[str, Any], sign: signal.Signals) -> None:
        """A signal at any moment."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(member["pid"], sign)
            self._faults[f"{sign.name}/any"] += 1
            self.dead.add(member["worker"])
            if sign == signal.SIGSTOP:
                self._stopped.append(member["pid"])

    def _kill_controller(self) -> None:
        """Another one is started; whatever happens meanwhile it hears from workers and hosts."""
        if self._controllers < MOST_CONTROLLERS:
            with contextlib.suppress(
                AssertionError, ProcessLookupError, psutil.NoSuchProcess
            ):  # it is being started
                kill_9(self._job.controller_pid())
                self._controllers += 1
                self._faults[CONTROLLERS] += 1

    def _order(self, workers: list[int]) -> None:
        """Tell workers to kill themselves in a phase, and wait until they did; in time, or not at all."""
        for worker in workers:
            self._write_order(worker, f"-1:{self._draw.choice(PLACES)}:{self._draw.randrange(4)}")
        until_s = time.monotonic() + ORDER_S
        while time.monotonic() < until_s and self._job.process.poll() is None:
            if all(mark(self._job.folder, f"fired-{worker}") for worker in workers):
                break
            time.sleep(LOOK_S)
        for worker in workers:
            self._write_order(worker, "-1:never")

    def _write_order(self, worker: int, text: str) -> None:
        marks = self._job.folder / MARKS
        aside = marks / f".order-{worker}"
        aside.write_text(text)
        aside.replace(marks / f"order-{worker}")

    def _read_marks(self) -> None:
        """Take note of the orders that were carried out."""
        for path in (self._job.folder / MARKS).glob("fired-*"):
            worker = int(path.name.partition("-")[2])
            if worker not in self._fired:
                self._fired.add(worker)
                self.dead.add(worker)
                self._faults[f"SIGKILL/{json.loads(path.read_text())['phase']}"] += 1

    def close(self) -> None:
        """Wake whoever still sleeps."""
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._read_marks()


def test_random_kills_stops_and_resizes_of_real_jobs_change_no_bit(tmp_path: Path) -> None:
    seed = int(os.environ.get("HOLDTRUE_SOAK_SEED", time.time_ns() % 2**32))
    wanted = int(os.environ.get("HOLDTRUE_SOAK_FAULTS", FAULTS))
    until_s = time.monotonic() + float(os.environ.get("HOLDTRUE_SOAK_SECONDS", "inf"))
    print(f"seed {seed}")
    alone = start(tmp_path / "alone", "--workers", "1", steps=STEPS)
    ended = alone.end()
    assert ended.status == 0, ended.text
    base = read_undisturbed(tmp_path / "alone")
    faults: Counter[str] = Counter()
    failures: list[str] = []
    jobs, begun_s = 0, time.monotonic()
    while deaths(faults) < wanted and time.monotonic() < until_s:
        wrong = run_one(tmp_path / f"job-{jobs}", base, random.Random(f"{seed}/{jobs}"), faults)
        failures += [f"job {jobs}: {text}" for text in wrong]
        print(f"job {jobs}: {deaths(faults)} faults so far; {wrong or 'all bits are right'}", flush=True)
        jobs += 1
        write_result(seed, jobs, faults, failures, begun_s)
    assert not failures, "\n".join(failures)


def run_one(folder: Path, base: Undisturbed, draw: random.Random, faults: Counter[str]) -> list[str]:
    """One job and what was wrong with it."""
    options = ("--workers", str(draw.randint(2, 3)), "--restart", "1000", "--timeout", str(TIMEOUT_S))
    job = start(
        folder, *options, "--checkpoint-every", "20", label="s", steps=STEPS, takes_orders=True, pace_s=PACE_S
    )
    driver = Driver(job, draw, faults)
    try:
        driver.drive(time.monotonic() + 300)
        ended = job.end()
        driver.close()
        if "killed two workers in a row" in ended.text:
            faults[ENDED_BY_RULE] += 1
            return []
        wrong = differences(folder, ended, base, dead=driver.dead)
        return [*wrong, ended.text[-3000:]] if wrong else []
    except Exception as error:  # noqa: BLE001 - the soak goes on and tells all of them
        return [f"{type(error).__name__}: {error}"]
    finally:
        job.close()


def deaths(faults: Counter[str]) -> int:
    """How many workers and controllers were killed or stopped; a resize is no fault."""
    return faults.total() - faults[RESIZES] - faults[ENDED_BY_RULE]


def write_result(seed: int, jobs: int, faults: Counter[str], failures: list[str], begun_s: float) -> None:
    """The result so far, where `HOLDTRUE_SOAK_OUT` says."""
    if "HOLDTRUE_SOAK_OUT" not in os.environ:
        return
    result = {
        "command": "make soak",
        "device": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seed": seed,
        "jobs": jobs,
        "steps_of_a_job": STEPS,
        "faults": deaths(faults),
        "by_kind_and_phase": dict(sorted(faults.items())),
        "wall_s": round(time.monotonic() - begun_s, 1),
        "failures": failures,
    }
    Path(os.environ["HOLDTRUE_SOAK_OUT"]).write_text(json.dumps(result, indent=1) + "\n")
