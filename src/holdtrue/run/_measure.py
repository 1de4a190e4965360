"""A worker of `holdtrue profile`: `python -m holdtrue.run._measure ORDER.json SCRIPT ARGS`.

Runs the user's script again and again in one process. In each trial `holdtrue.init` gets a plan whose
virtual-node batch is the size to be measured, a timer counts steps, and the script ends by an exception that
only this file catches, right after the last step that was wanted: nothing is evaluated or saved.
"""

import dataclasses
import json
import os
import runpy
import shutil
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import torch

from holdtrue.data import MapSource, Source
from holdtrue.engine import PassTimer, timed_by
from holdtrue.errors import GroupError, UsageError, WorkerLostError
from holdtrue.profile import LOST, TRIAL_PASSES, DeviceFacts, Trial, sizes_of_interest
from holdtrue.reduce import AloneGroup, Group, widened_dtype
from holdtrue.wire import JoinedReport, ReportSender, WorkerEnvironment, decode_cli_settings, encode_settings

from ._core import Core
from ._edge import install_edge, join_launcher, leave_at_once
from ._environment import collect_environment
from ._expected import hash_layout
from ._join import LaunchedStore, Membership, joined_as
from ._peak import PeakWatch, WatchedMark, forget_trial
from ._settings import Settings

WARM_STEPS = 3
LEAST_STEPS, MOST_STEPS = 4, 40
TRIAL_S = 0.4
"""Seconds of measured steps that a trial aims at."""
SMALL_BYTES, LARGE_BYTES = 1 << 12, 1 << 23
EXCHANGES = 7


class TrialOver(BaseException):
    """Ends the script of a trial; no `except Exception` of its own may keep it going."""


@final
class TrialTimer(PassTimer):
    """Times whole steps and their passes, and ends the script when it has enough of them."""

    def __init__(self, device: torch.device, group: Group, watch: PeakWatch) -> None:
        super().__init__()
        self._device, self._group, self._watch = device, group, watch
        self._seen = 0
        self._wanted = MOST_STEPS
        self._begun_s = self._passes_from_s = 0.0
        self._passes_now_s = 0.0
        self._is_open = False
        self.passes = 0
        self.passes_s: list[float] = []
        self.steps_s: list[float] = []

    def _now_s(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def begin(self, step: int, passes: int) -> None:
        """See `PassTimer.begin`; closes the step before."""
        now_s = self._now_s()
        if step != self._step:
            if self._step >= 0:
                self._close_step(now_s)
            # The first step makes what every later one finds, and the second is not timed.
            self._watch.begin_step(closely=self._seen == 1)
            now_s = self._now_s()
            self._step, self._begun_s, self._passes_now_s = step, now_s, 0.0
        self.passes, self._passes_from_s, self._is_open = passes, self._now_s(), True

    def end(self) -> None:
        """See `PassTimer.end`."""
        if self._is_open:
            self._is_open = False
            self._passes_now_s += self._now_s() - self._passes_from_s
            self._watch.end_passes()

    def _close_step(self, now_s: float) -> None:
        self._seen += 1
        step_s = now_s - self._begun_s
        if self._seen == WARM_STEPS:
            # All workers leave at one step: the slowest one's time decides how many there are.
            said = self._group.gather_bytes(repr(step_s).encode(), what="the time of a step")
            slowest_s = max(float(text) for text in said)
            self._wanted = max(LEAST_STEPS, min(MOST_STEPS, int(TRIAL_S / slowest_s)))
        if self._seen > WARM_STEPS:
            self.steps_s.append(step_s)
            self.passes_s.append(self._passes_now_s)
        if len(self.steps_s) >= self._wanted:
            raise TrialOver


@final
class Measurer:
    """Runs the trials of one worker and writes down what they took."""

    def __init__(self, order: dict[str, Any], script: str, arguments: Sequence[str]) -> None:  # Any: JSON
        worker = WorkerEnvironment.from_env(os.environ)
        assert worker is not None, "the launcher starts this"
        assert worker.rank is not None, "with a fixed group"
        assert worker.world_size is not None, "with a fixed group"
        self.rank, self.workers = worker.rank, worker.world_size
        self.worker, self.order, self.script = worker, order, script
        self.arguments = [script, *arguments]
        self.settings = decode_cli_settings(os.environ)
        self.base = {name: value for name, value in self.settings.items() if name != "run_dir"}
        self.folder = Path(order["folder"])
        self.store = LaunchedStore(worker)
        self.generation = 0
        self.groups: list[Group] = []
        """Groups of the trial that runs."""
        self.abandoned: list[Group] = []
        """Groups of trials that failed: they live as long as the process."""
        self.facts: DeviceFacts | None = None
        self.deadline_s = time.monotonic() + float(order["seconds"])

    # ---- running the script ----

    def run_script(self, membership: Membership, settings: dict[str, Any]) -> None:  # Any: setting values
        """Run the script until it ends or a timer ends it."""
        kept, argv, path = dict(os.environ), list(sys.argv), list(sys.path)
        os.environ.update(encode_settings({**self.base, **settings}))
        sys.argv = list(self.arguments)
        sys.path[0] = str(Path(self.script).resolve().parent)
        try:
            with joined_as(membership):
                runpy.run_path(self.script, run_name="__main__")
        except TrialOver:
            return
        except SystemExit as error:
            if error.code not in (None, 0):
                raise
        finally:
            sys.argv, sys.path[:] = argv, path
            os.environ.clear()
            os.environ.update(kept)

    def discover(self) -> DeviceFacts:
        """Run the script to its first step, to see plan, model and device."""
        found: list[DeviceFacts] = []

        def look(core: Core, source: Source) -> Source:
            found.append(describe(core, str(self.order["kind"])))
            raise TrialOver

        self.run_script(self._membership(1, adapt=look), {"digest_every": 0, "checkpoint_every": 0})
        if not found:
            raise UsageError(
                f"{self.script} ended without run.steps, so there is no pass to measure; a profile is of a training "
                f"loop. Call run.steps as for training."
            )
        return found[0]

    def _membership(self, workers: int, adapt: Any) -> Membership:  # Any: see Membership.adapt_source
        generation = self.generation

        def connect(device: torch.device, settings: Settings) -> Group:
            if workers == 1:
                return AloneGroup(device)
            group = self.store.group(generation, device, settings)
            group.on_slow_wait = lambda what: self.refuse_failed(generation, what)
            self.groups.append(group)
            return group

        return Membership(
            rank=self.rank if workers > 1 else 0,
            world_size=workers,
            device=self.worker.device,
            in_process=True,
            generation=generation,
            connect=connect,
            adapt_source=adapt,
        )

    # ---- trials ----

    def run_trial(self, size: int, workers: int, repeat: int, *, must_work: bool = False) -> Trial:
        """Measure one size of pass, alone or together; with `must_work` an error of the script is one of ours."""
        self.generation += 1
        virtual_nodes = TRIAL_PASSES * workers
        batch = size * virtual_nodes
        device = torch.device(self.worker.device)
        timers: list[TrialTimer] = []
        watch = PeakWatch(device)

        def make(device: torch.device, group: Group) -> PassTimer:
            timers.append(TrialTimer(device, group, watch))
            return timers[-1]

        def enlarge(core: Core, source: Source) -> Source:
            core.mark = WatchedMark(watch)
            wanted = batch * (WARM_STEPS + MOST_STEPS + 2)
            if not isinstance(source, MapSource) or source.sampler is not None or source.examples >= wanted:
                return source
            # The dataset itself, so that it is read as in a job: a wrapper would hide how it is read fastest.
            return dataclasses.replace(source, examples=wanted, cycle=source.examples)

        forget_trial(device)
        error = None
        own = self.folder / f"trial-{self.generation}"
        settings = {
            "virtual_nodes": virtual_nodes,
            "global_batch_size": batch,
            "digest_every": 0,
            "checkpoint_every": 0,
            "run_dir": str(own),
        }
        with timed_by(make):
            try:
                self.run_script(self._membership(workers, enlarge), settings)
            except GroupError as problem:
                if must_work:
                    raise
                error = LOST if isinstance(problem, WorkerLostError) else str(problem)
            except (RuntimeError, ValueError, MemoryError) as problem:
                if must_work:
                    raise
                error = f"{type(problem).__name__}: {problem}".splitlines()[0][:200]
        if error is not None and workers > 1:  # others may wait for this worker in the trial
            self.store.say(failure_key(self.generation, self.rank), "1")
        peak = watch.peak_bytes(self.facts.gradient_bytes if self.facts else 0)
        self.leave_groups(has_failed=error is not None)
        shutil.rmtree(own, ignore_errors=True)
        timer = timers[-1] if timers else None
        if error is None and (timer is None or len(timer.steps_s) < LEAST_STEPS):
            error = f"the data has fewer than {WARM_STEPS + LEAST_STEPS + 1} steps of {batch} examples"
        return Trial(
            batch_size=size,
            workers=workers,
            rank=self.rank,
            repeat=repeat,
            passes=TRIAL_PASSES,
            passes_s=tuple(timer.passes_s) if timer and not error else (),
            steps_s=tuple(timer.steps_s) if timer and not error else (),
            peak_bytes=peak,
            error=error,
        )

    def leave_groups(self, *, has_failed: bool) -> None:
        """Leave the groups of a trial; those of one that failed are kept as they are.

        What was begun in them may never end, and to free them would wait for it.
        """
        for group in self.groups:
            if has_failed:
                self.abandoned.append(group)
            else:
                group.close()
        self.groups.clear()

    def refuse_failed(self, generation: int, what: str) -> None:
        """End a long wait in a trial that has failed on another worker.

        Raises:
            WorkerLostError: it has.
        """
        others = (rank for rank in range(self.workers) if rank != self.rank)
        if any(self.store.has_said(failure_key(generation, rank)) for rank in others):
            raise WorkerLostError(f"{LOST}: {what} was awaited.")

    def run_all(self) -> None:
        """All trials of this worker, each written as soon as it is done."""
        facts = self.facts = self.discover()
        own_size = -(-facts.global_batch_size // facts.virtual_nodes)
        sizes = tuple(self.order["sizes"]) or sizes_of_interest(facts.global_batch_size, facts.virtual_nodes)
        workers, repeats = self.workers, int(self.order["repeats"])
        total = repeats * (len(sizes) + (workers > 1))
        self.write({"facts": dataclasses.asdict(facts), "total": total, "sizes": sizes})
        bad: set[int] = set()
        for repeat in range(repeats):
            if workers > 1:
                self.alone(own_size if not self.order["sizes"] else sizes[0], repeat)
            for size in sizes:
                if size in bad:
                    continue
                trial = self.run_trial(
                    size, workers, repeat, must_work=workers == 1 and size == own_size and not repeat
                )
                self.write({"trial": dataclasses.asdict(trial)})
                if self.has_failed(trial):
                    bad.add(size)
            if not self.may_go_on(repeat):
                break
        if workers > 1:
            self.write({"exchanges": self.time_exchanges()})

    def alone(self, size: int, repeat: int) -> None:
        """A trial of worker 0 by itself; the others wait for it in the next trial's group."""
        if self.rank == 0:
            trial = self.run_trial(size, 1, repeat, must_work=repeat == 0)
            self.write({"trial": dataclasses.asdict(trial)})
        else:
            self.generation += 1

    def has_failed(self, trial: Trial) -> bool:
        """Whether a size failed on any worker: all leave it out from then on."""
        if trial.workers == 1:
            return trial.error is not None
        key = f"done/{self.generation}"
        self.store.say(f"{key}/{trial.rank}", str(int(trial.error is not None)))
        return any(self.store.hear(f"{key}/{rank}") == "1" for rank in range(trial.workers))

    def may_go_on(self, repeat: int) -> bool:
        """Whether there is time for one more repetition: worker 0 decides for all."""
        if self.workers == 1:
            return time.monotonic() < self.deadline_s
        if self.rank == 0:
            self.store.say(f"go-on/{repeat}", str(int(time.monotonic() < self.deadline_s)))
        return self.store.hear(f"go-on/{repeat}") == "1"

    def time_exchanges(self) -> list[tuple[int, float]]:
        """(bytes each worker sent and received, seconds) of bare exchanges of two sizes, in turn."""
        self.generation += 1
        device = torch.device(self.worker.device)
        group = self.store.group(self.generation, device, Settings())
        found: list[tuple[int, float]] = []
        for repeat in range(EXCHANGES):
            for size in (SMALL_BYTES, LARGE_BYTES):
                seconds = time_exchange(group, size)
                if repeat:
                    found.append((2 * size * (group.world_size - 1) // group.world_size, seconds))
        group.close()
        return found

    def write(self, values: dict[str, Any]) -> None:  # Any: JSON values
        """Add a line to this worker's file."""
        with (self.folder / f"measured-{self.rank}.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")


def failure_key(generation: int, rank: int) -> str:
    """Where a worker says that a trial has failed on it."""
    return f"failed/{generation}/{rank}"


def time_exchange(group: Group, size_bytes: int) -> float:
    """Seconds of an all-to-all and a spread of one contribution of `size_bytes` from each worker."""
    world, elements = group.world_size, size_bytes // 4
    bounds = [rank * elements // world for rank in range(world + 1)]
    own = bounds[group.rank + 1] - bounds[group.rank]
    flat = torch.zeros(elements, device=group.device)
    received = torch.empty(own * world, device=group.device)
    group.gather_bytes(b"", what="all workers before an exchange is timed")
    began_s = time.perf_counter()
    sizes = [b - a for a, b in pairwise(bounds)]
    group.exchange(received, flat, [own] * world, sizes, what="a timed exchange").wait()
    group.spread(flat, bounds, what="a timed spread").wait()
    if group.device.type == "cuda":
        torch.cuda.synchronize(group.device)
    return time.perf_counter() - began_s


def describe(core: Core, kind: str) -> DeviceFacts:
    """What this worker's run says of itself."""
    parameters = [p for _, p in core.state.named_parameters() if p.requires_grad]
    device = collect_environment(core.device, core.settings.threads)["device"]
    return DeviceFacts(
        kind=kind,
        name=device["name"],
        type=core.device.type,
        torch_version=torch.__version__,
        threads=core.settings.threads,
        memory_bytes=device.get("memory_bytes"),
        model_hash=hash_layout(core.engine),
        gradient_bytes=sum(
            p.numel() * widened_dtype(p.dtype).itemsize * (2 if p.is_complex() else 1) for p in parameters
        ),
        virtual_nodes=core.plan.virtual_nodes,
        global_batch_size=core.plan.global_batch_size,
        numerics=core.plan.numerics,
    )


def main() -> None:
    """Carry out the order in the first argument."""
    install_edge()
    order, script, *arguments = sys.argv[1:]
    measurer = Measurer(json.loads(Path(order).read_text()), script, arguments)
    join_launcher(measurer.worker)
    if measurer.worker.report_fd is not None:
        ReportSender(measurer.worker.report_fd).send(JoinedReport(rank=measurer.rank, pid=os.getpid()))
    measurer.run_all()
    if measurer.abandoned:
        leave_at_once(0)


if __name__ == "__main__":
    main()
