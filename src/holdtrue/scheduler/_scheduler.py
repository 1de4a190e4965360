"""The scheduler: hears what users ask, looks at the jobs, decides by the policy, and carries decisions out."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, final

from holdtrue.cluster import (
    Cluster,
    Ended,
    LogRecord,
    Lost,
    Observed,
    Opened,
    PolicyChosen,
    Schedule,
    ScheduleEvent,
    Submitted,
    decide_record,
    find_live_policy,
    rebuild_schedule,
)
from holdtrue.errors import HoldtrueError, UsageError
from holdtrue.wire import escape_text

from ._engine import ClusterEngine, Look
from ._evidence import ORPHANS_S, STOPPED, Evidence, judge_attempt, judge_end
from ._orders import Order, Standing, plan_orders
from ._records import JobRecord
from ._request import JobRequest, check_request
from ._store import Store

_log = logging.getLogger("holdtrue.scheduler")

LOOK_EVERY_S = 0.5
"""Between two looks at the jobs, unless something happens."""
END_WAIT_S = 120.0
"""What a job that is to end has until its launcher is sent a signal, and then the next one."""
_WARNINGS = (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)
"""The first asks for the step boundary once more, the second kills the workers, the third leaves them to their guard."""
MOST_REGROWTHS = 3
"""Workers of one attempt that are replaced after they died; a job that loses more goes on with what it has."""
_MOST_NAMED = 20
"""Jobs that an error names."""


@final
@dataclass(slots=True)
class _Running:
    """What the scheduler remembers of a running job between two looks; all of it can be found out again."""

    target: int
    """Devices that it aims at, as far as known."""
    ordered: int = 0
    """Devices that it was last told to have."""
    held: int = 0
    """Devices that its workers were on at the last look that could say; as many as it may have, before the first."""
    look: Look | None = None
    asked_end_s: float | None = None
    gone_s: float | None = None
    """When it was seen to have been killed with its launcher: its workers may live a little longer."""
    regrowths: int = 0
    slot: int = -1
    """Shared device on which it runs, for a job of a part, as far as known."""
    unwanted_s: float | None = None
    """Since when it is to end."""
    warnings: int = 0
    """Signals that its launcher was sent since then."""


@final
class Scheduler:
    """One cluster. Every method runs in one event loop; questions to jobs run in threads."""

    def __init__(
        self, store: Store, engine: ClusterEngine, cluster: Cluster | None, policy: str | None
    ) -> None:
        """Take up the work where the store left it.

        Raises:
            UsageError: there is no such policy, or no devices are named, or other ones than jobs are running on.
        """
        self._store, self._engine = store, engine
        self.jobs: dict[int, JobRecord] = {record.number: record for record in store.jobs()}
        self._running: dict[int, _Running] = {}
        self._wake = asyncio.Event()
        self._watched: dict[int, int] = {}
        self.is_closing = self.ends_jobs = False
        self.reason = ""
        self.closed = asyncio.Event()
        records = store.log()
        self._newest = records[-1].number if records else 0
        self._newest_s = records[-1].time_s if records else 0.0
        self._epoch_s = float(store.fact("epoch_s") or time.time())
        self.schedule = self._open(rebuild_schedule(records) if records else None, cluster, policy)
        for record in self.jobs.values():
            if record.state == "running":
                grant = self.schedule.grant_of(record.id)
                self._running[record.number] = _Running(
                    target=grant.devices if grant is not None else 1,
                    held=record.request.max_devices,
                    slot=self._slot_of(record),
                )

    def _slot_of(self, record: JobRecord) -> int:
        """Shared device on which a running job was begun; the grant of one that is being stopped may be another by now."""
        slot, grant = self._engine.slot(record), self.schedule.grant_of(record.id)
        if slot is None:
            slot = grant.slot if grant is not None and record.purpose != "preempt" else -1
        return slot

    def _open(self, before: Schedule | None, cluster: Cluster | None, policy: str | None) -> Schedule:
        if before is None:
            if cluster is None:
                raise UsageError(
                    "no devices are named, and this is a new cluster. Start it with --devices cpu:2."
                )
            self._store.set_fact("epoch_s", repr(self._epoch_s))
            before = Schedule(cluster=cluster, policy=policy or "wfs")
        elif cluster is not None and cluster != before.cluster and before.views:
            names = ", ".join(self.jobs[int(view.job.id)].request.name for view in before.views[:5])
            raise UsageError(
                f"the cluster has jobs that are not over ({names}), on other devices or queues than those named now. "
                f"Start it without --devices and --queue, or cancel the jobs first."
            )
        find_live_policy(policy or before.policy)
        event = Opened(cluster=cluster or before.cluster, policy=policy or before.policy)
        after, entries = self._decide(before, [event])
        self._store.write(log=entries)
        self._take(entries)
        return after

    @property
    def trouble(self) -> str:
        """Why no job can be started or grow now; empty if all is well."""
        return self._engine.trouble

    @property
    def newest(self) -> int:
        """Number of the log's last record."""
        return self._newest

    @property
    def epoch_s(self) -> float:
        """Beginning of the log, in seconds since 1970."""
        return self._epoch_s

    def facts_of(self, number: int) -> Mapping[str, Any] | None:  # Any: JSON values
        """What a running job's controller said at the last look."""
        running = self._running.get(number)
        return running.look.facts if running is not None and running.look is not None else None

    # --- what users ask ---------------------------------------------------------------------------------

    def submit(self, requests: Sequence[JobRequest]) -> list[JobRecord]:
        """Take jobs, all of them or none.

        Raises:
            UsageError: one can never run here, or has the name of a job that is not over.
        """
        self._check_open()
        names = [record.request.name for record in self.jobs.values() if not record.is_over]
        for request in requests:
            check_request(request, self.schedule.cluster)
            self._engine.check(request)
            if request.name in names:
                raise UsageError(
                    f"a job called {request.name!r} waits or runs already; names of such jobs are unique. "
                    f"Give another name, or `holdtrue cancel {request.name}`."
                )
            if self._engine.name_is_taken(request.name):
                raise UsageError(
                    f"a job called {request.name!r} runs already, beside this cluster; names of living jobs are unique. "
                    f"Give another name, or see `holdtrue status {request.name}`."
                )
            names.append(request.name)
        first, now_s = max(self.jobs, default=0) + 1, time.time()
        new = [JobRecord(number=first + i, request=r, submitted_s=now_s) for i, r in enumerate(requests)]
        events = [Submitted(job=r.request.job_at(r.id, self._now_s())) for r in new]
        self._happen(events, new=new)
        return new

    def cancel(self, name: str) -> str:
        """End a job that waits or runs; what becomes of it.

        Raises:
            UsageError: there is no such job.
        """
        found = [r for r in self.jobs.values() if r.request.name == name and not r.is_over]
        if not found:
            names = [r.request.name for r in self.jobs.values() if not r.is_over]
            known = ", ".join(names[:_MOST_NAMED]) + (", ..." if names[_MOST_NAMED:] else "") or "none"
            raise UsageError(
                f"there is no job {name!r} that waits or runs; there are: {known}. See `holdtrue queue --all`."
            )
        record = found[0]
        if record.state == "waiting":
            over = replace(
                record, state="cancelled", ended_s=time.time(), ending="It was cancelled while it waited."
            )
            self._happen([Ended(job=record.id)], changed=[over])
            return (
                f"{name} is cancelled; it had not started." if not record.attempt else f"{name} is cancelled."
            )
        self._change(replace(record, purpose="cancel"))
        return f"{name} ends at its next step boundary, with a checkpoint."

    def choose_policy(self, name: str) -> str:
        """Decide by another policy from now on.

        Raises:
            UsageError: there is none, or it cannot decide about live jobs.
        """
        self._check_open()
        policy = find_live_policy(name)
        before = self.schedule.policy
        self._happen([PolicyChosen(policy=name)])
        return f"the policy is {name} ({policy.sentence}); it was {before}."

    def close(self, *, ends_jobs: bool) -> list[str]:
        """Begin to end; the names of jobs that run."""
        self.is_closing, self.ends_jobs = True, ends_jobs
        self._wake.set()
        return [r.request.name for r in self.jobs.values() if r.state == "running"]

    def _check_open(self) -> None:
        if self.is_closing:
            raise UsageError("the cluster is stopping. Start it again with `holdtrue cluster start`.")

    # --- the work ---------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Look, decide and act until closed."""
        while not (self.is_closing and (not self.ends_jobs or not self._running)):
            await self._turn()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_EVERY_S)
            self._wake.clear()
        self.closed.set()

    async def _turn(self) -> None:
        self._engine.reap([self.jobs[number] for number in self._running])
        looked = list(self._running)
        looks = await asyncio.gather(*(asyncio.to_thread(self._engine.look, self.jobs[n]) for n in looked))
        for number, look in zip(looked, looks, strict=True):
            self._see(number, look)
        await asyncio.gather(*(self._carry_out(order) for order in self._orders()))
        for number in list(self._running):
            await self._see_to_end(number)

    def _see(self, number: int, look: Look) -> None:
        """Note what was seen of a running job; one that ended is judged."""
        running, record = self._running[number], self.jobs[number]
        running.look = look
        fate = judge_attempt(look.evidence)
        if fate == "lives":
            self._watch(number)
            if look.facts is not None:
                running.held = look.held
            if look.can_change and look.target is not None:
                running.target = look.target
            return
        if fate == "never":
            self._begin_again(record, running)
            return
        if fate == "killed":
            running.gone_s = running.gone_s or time.monotonic()
            if time.monotonic() < running.gone_s + ORPHANS_S:
                return
            self._engine.note_killed(record)
        self._judge(record, look.evidence)

    def _begin_again(self, record: JobRecord, running: _Running) -> None:
        """Begin an attempt that was written down and never began, unless nobody wants it any more."""
        if not record.purpose and not self.ends_jobs and self.schedule.grant_of(record.id) is not None:
            self._begin(record, running.target)
            return
        if not record.purpose:
            self._change(record := replace(record, purpose="preempt"))
        self._judge(record, Evidence(is_locked=False, is_started=False, exit_code=STOPPED))

    def _judge(self, record: JobRecord, evidence: Evidence) -> None:
        verdict = judge_end(
            evidence.exit_code,
            purpose=record.purpose,
            crashes=record.crashes,
            retries=record.request.retries,
            loss=evidence.loss,
        )
        said = escape_text(self._engine.last_words(record)) if verdict.is_crash else ""
        if not record.purpose and verdict.state != "finished":
            said = escape_text(evidence.how_lost) or said
        after = replace(
            record,
            state=verdict.state,
            crashes=record.crashes + verdict.is_crash,
            purpose="",
            exit_code=evidence.exit_code,
            ended_s=None if verdict.state == "waiting" else time.time(),
            ending=f"{verdict.sentence} {said}".strip(),
        )
        del self._running[record.number]
        _log.info("job %s: %s", record.request.name, after.ending)
        if verdict.state != "waiting":
            self._happen([Ended(job=record.id)], changed=[after])
        elif verdict.is_crash:
            self._happen([Lost(job=record.id)], changed=[after])
        else:
            self._change(after)

    def _orders(self) -> tuple[Order, ...]:
        grants = {view.job.id: view.grant for view in self.schedule.views}
        standings = []
        for record in self.jobs.values():
            if record.is_over:
                continue
            grant = grants.get(record.id)
            wanted = grant.devices if grant is not None and not self.ends_jobs else 0
            standings.append(self._standing(record, wanted, -1 if grant is None else grant.slot))
        return plan_orders(self.schedule.cluster.total, standings)

    def _standing(self, record: JobRecord, wanted: int, slot: int) -> Standing:
        running = self._running.get(record.number)
        if running is None:
            return Standing(number=record.number, wanted=wanted, percent=record.request.percent, slot=slot)
        look = running.look
        return Standing(
            number=record.number,
            wanted=0 if record.purpose == "cancel" else wanted,
            percent=record.request.percent,
            slot=running.slot,
            is_running=True,
            target=running.target,
            held=look.held
            if look is not None and look.facts is not None
            else max(running.held, running.target),
            can_change=look is not None and look.can_change,
            is_ending=running.asked_end_s is not None,
        )

    async def _carry_out(self, order: Order) -> None:
        record = self.jobs[order.number]
        if order.what == "start":
            if not self._engine.trouble:
                self._start(record, order.devices)
            return
        running = self._running[order.number]
        try:
            if order.what == "stop":
                if record.purpose == "":
                    self._change(record := replace(record, purpose="preempt"))
                await asyncio.to_thread(self._engine.stop, record, f"the scheduler: {record.purpose}")
                running.asked_end_s = time.monotonic()
            elif self._may_resize(running, order.devices):
                said = await asyncio.to_thread(self._engine.resize, record, order.devices)
                running.target = running.ordered = order.devices
                _log.info("job %s to %d devices: %s", record.request.name, order.devices, escape_text(said))
        except HoldtrueError as error:  # it is ending, or its controller starts anew: the next look says so
            _log.info("job %s: %s", record.request.name, escape_text(str(error)))

    def _may_resize(self, running: _Running, devices: int) -> bool:
        """Whether to ask: what was asked for and got lost again (workers that die) is not asked for without end."""
        if devices <= running.target:
            return True  # giving back is always asked for
        if devices <= running.ordered:
            running.regrowths += 1
        return running.regrowths <= MOST_REGROWTHS

    def _start(self, record: JobRecord, workers: int) -> None:
        """Start a job: first it is written down, so that whoever comes after knows to look for it."""
        now_s = time.time()
        started = replace(
            record,
            state="running",
            attempt=record.attempt + 1,
            started_s=record.started_s or now_s,
            ending="",
        )
        grant = self.schedule.grant_of(record.id)
        self._running[record.number] = _Running(target=workers, slot=-1 if grant is None else grant.slot)
        self._change(started)
        self._begin(started, workers)

    def _begin(self, record: JobRecord, workers: int) -> None:
        grant = self.schedule.grant_of(record.id)
        workers = grant.devices if grant is not None else max(1, workers)
        running = self._running[record.number]
        running.target = running.ordered = workers
        running.slot = grant.slot if grant is not None else -1
        try:
            self._engine.begin(record, workers, running.slot)
        except (OSError, UsageError) as error:  # no memory for a process, say: tried again at the next look
            _log.warning("job %s cannot be started: %s", record.request.name, error)
            return
        _log.info("job %s is started on %d devices, attempt %d", record.request.name, workers, record.attempt)

    async def _see_to_end(self, number: int) -> None:
        """Be plainer and plainer with a job that is to end and does not, or cannot be asked."""
        running, record = self._running[number], self.jobs[number]
        is_unwanted = self.ends_jobs or self.schedule.grant_of(record.id) is None
        if not record.purpose and not is_unwanted:
            running.unwanted_s = None
            return
        running.unwanted_s = running.unwanted_s or time.monotonic()
        if time.monotonic() < running.unwanted_s + END_WAIT_S * (running.warnings + 1):
            return
        if not record.purpose:
            self._change(record := replace(record, purpose="preempt"))
        how = _WARNINGS[min(running.warnings, len(_WARNINGS) - 1)]
        running.warnings += 1
        _log.warning("job %s does not end: its launcher is sent %s", record.request.name, how.name)
        await asyncio.to_thread(self._engine.signal, record, how)

    def _watch(self, number: int) -> None:
        """Wake up when a keeper ends."""
        pid = self._engine.keeper(self.jobs[number])
        if pid is None or self._watched.get(number) == pid:
            return
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return  # it has ended: the next look sees it
        self._watched[number] = pid
        loop = asyncio.get_running_loop()

        def end() -> None:
            loop.remove_reader(fd)
            os.close(fd)
            self._wake.set()

        loop.add_reader(fd, end)

    # --- what happened, and what is decided -------------------------------------------------------------

    def _now_s(self) -> float:
        """Seconds from the log's beginning; never back, whatever the clock does."""
        return max(self._newest_s, time.time() - self._epoch_s)

    def _happen(
        self,
        events: Sequence[ScheduleEvent],
        *,
        new: Sequence[JobRecord] = (),
        changed: Sequence[JobRecord] = (),
    ) -> None:
        """Events, what they change and what is decided: one transaction, and only then the new state."""
        schedule, entries = self._decide(self.schedule, [*self._observations(), *events])
        self._store.write(new=new, changed=changed, log=entries)
        self.schedule = schedule
        self._take(entries)
        self.jobs |= {record.number: record for record in (*new, *changed)}
        self._wake.set()

    def _change(self, record: JobRecord) -> None:
        self._store.write(changed=[record])
        self.jobs[record.number] = record
        self._wake.set()

    def _decide(
        self, schedule: Schedule, events: Sequence[ScheduleEvent]
    ) -> tuple[Schedule, list[LogRecord]]:
        entries, now_s = [], self._now_s()
        for number, event in enumerate(events, self._newest + 1):
            schedule, entry = decide_record(schedule, event, number=number, now_s=now_s)
            entries.append(entry)
        return schedule, entries

    def _take(self, entries: Sequence[LogRecord]) -> None:
        if entries:
            self._newest, self._newest_s = entries[-1].number, entries[-1].time_s
            self.reason = entries[-1].reason

    def _observations(self) -> list[Observed]:
        """How far the running jobs are, for policies that go by it."""
        found = []
        for number, running in self._running.items():
            progress: Mapping[str, Any] = (
                (running.look.facts or {}).get("progress", {}) if running.look else {}
            )  # Any: JSON
            step, total, seconds = progress.get("step"), progress.get("total"), progress.get("seconds")
            if not (isinstance(step, int) and isinstance(total, int) and 0 < step <= total):
                continue
            view = next((v for v in self.schedule.views if v.job.id == str(number)), None)
            if view is not None and view.grant is not None:
                work = view.job.work
                rate = work / total / seconds if isinstance(seconds, float) and seconds > 0 else 0.0
                found.append(Observed(job=view.job.id, done=work * step / total, rate=rate))
        return found
