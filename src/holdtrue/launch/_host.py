"""One machine's processes of an elastic job: started and ended as the controller says."""

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import final

from holdtrue.elastic import HostLink
from holdtrue.errors import UsageError
from holdtrue.service import listen
from holdtrue.wire import Finish, Kill, Start, WorkerEnvironment

from ._at import AtPage
from ._crew import TICK_S, Crew
from ._devices import choose_device
from ._job import JobSpec, WorkerEnd
from ._judge import describe_status, fails_elastic_job
from ._leases import LEASE_WAIT_S, Leases, find_leases
from ._observer import JobObserver
from ._part_memory import LOOK_EVERY_S, PartMemory, find_part_memory, held_bytes, make_first_to_go
from ._place import Place
from ._stopping import StopState, count_interrupts, next_stop
from ._watchman import Guard
from ._worker import Worker, start_worker

_VERDICT_S = 1.0
"""What the controller has to fail the job for an error of a script, before it is told as that of a joiner."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Starter:
    """Starts workers of one job on this machine."""

    spec: JobSpec
    place: Place
    guard: Guard
    life_fd: int
    leases: Leases | None
    """Devices that its workers lease, one each; None where they have this machine's."""
    memory: PartMemory | None
    """What each of its workers may hold; None for no bound."""

    @classmethod
    def told_by(
        cls, env: Mapping[str, str], *, spec: JobSpec, place: Place, guard: Guard, life_fd: int
    ) -> "Starter":
        """One whose leases and bound of memory are what the host's environment `env` says.

        Raises:
            UsageError: it says what no scheduler writes.
        """
        return cls(
            spec=spec,
            place=place,
            guard=guard,
            life_fd=life_fd,
            leases=find_leases(env),
            memory=find_part_memory(env),
        )

    def start(self, number: int, device: str) -> Worker | None:
        """Start worker `number` on `device`, or on one that it leases, with a store socket and a page of its own.

        Raises:
            UsageError: nothing can listen on this machine's address.
            OSError: the machine has no room for another process.

        Returns:
            None if it is to lease a device and none is free now.
        """
        with ExitStack() as stack:
            store = stack.enter_context(listen(self.place.address))
            lease = self.leases.take() if self.leases is not None else None
            if lease is None and self.leases is not None:
                return None
            if lease is not None:
                stack.callback(os.close, lease.fd)
                device = device.partition(":")[0] + (":0" if ":" in device else "")
            at = AtPage()
            environment = WorkerEnvironment(
                worker=number,
                store_host=self.place.address,
                store_port=store.getsockname()[1],
                store_fd=store.fileno(),
                life_fd=self.life_fd,
                job=self.spec.name,
                device=device,
                controller_url=self.place.url,
                token_file=str(self.place.token_file),
                group_timeout_s=self.place.group_timeout_s,
                is_guest=int(self.place.is_guest),
            )
            try:
                worker = start_worker(
                    self.spec,
                    environment,
                    log=self.place.logs / f"worker-{number}.log",
                    base_env=os.environ,
                    guard=self.guard,
                    at=at,
                    lease=lease,
                )
            except BaseException:
                at.close()
                raise
        if self.memory is not None:
            make_first_to_go(worker.process.pid)
        return worker


@final
@dataclass(frozen=True, slots=True)
class _Pending:
    """A worker that is to be started."""

    device: str | None
    until_s: float


@final
class Host:
    """One host's side of an elastic job; owner of all that changes on this machine while it runs.

    Args:
        spec: The job.
        observer: Who is told what happens.
        starter: Starts workers.
        link: The connection to the controller.
        devices: What workers drive here, in the order in which they are taken.
    """

    def __init__(
        self,
        spec: JobSpec,
        observer: JobObserver,
        *,
        starter: Starter,
        link: HostLink,
        devices: tuple[str, ...],
    ) -> None:
        self.crew = Crew(observer, self._see_end)
        self.stop = StopState()
        self.finish: Finish | None = None
        """What the controller said at the end of the job."""
        self.starts_nobody = False
        """Set by a host that is about to end."""
        self._spec = spec
        self._observer = observer
        self._starter = starter
        self._link = link
        self._devices = devices
        self._tells_workers = False
        """Whether workers are told that the whole job is to end, since the controller could not be."""
        self._failures: list[tuple[float, WorkerEnd]] = []
        """Errors of scripts here that the controller may take for those of joiners, with the time of each."""
        self._in_use: dict[int, str] = {}
        self._pending: dict[int, _Pending] = {}
        """Workers that wait for a device."""
        self._over: set[int] = set()
        """Workers that held more memory than their part at the last look."""
        self._weighed_s = 0.0
        """When it was last looked what workers of a part hold."""
        self.crew.watch(link.fileno(), self._obey)

    @property
    def is_over(self) -> bool:
        """Whether no worker lives here and none will be started."""
        is_ending = self.finish is not None or self.stop.failed_at_s is not None or self.stop.interrupts >= 2
        return is_ending and not self.crew.alive and not self._pending

    @property
    def _may_start(self) -> bool:
        is_ending = self.finish is not None or self.stop.failed_at_s is not None or self.stop.interrupts > 0
        return not (is_ending or self.starts_nobody)

    def start(self, number: int, device: str | None = None) -> None:
        """Start a worker, on the device that fewest workers here drive unless one is named.

        One that is to lease a device and finds none free is tried again in each turn, for `LEASE_WAIT_S`: those who give
        one back may be this host's own dead workers, which its turns clean up. After that it is given up, and nobody died:
        as long as the job is to have as many workers, its controller orders another, which waits as long.
        """
        self._pending[number] = _Pending(device, time.monotonic() + LEASE_WAIT_S)
        self._link.add_running(number)
        self._try_to_start(number)

    def _try_to_start(self, number: int) -> None:
        pending = self._pending[number]
        if not self._may_start:
            self._give_up(number, "the job ends")
            return
        device = pending.device or choose_device(self._devices, tuple(self._in_use.values()))
        try:
            worker = self._starter.start(number, device)
        except (OSError, UsageError) as error:  # as a death: another one, tried at once, would fail at once
            del self._pending[number]
            self._observer.show_note(f"worker {number} cannot be started here: {error}")
            self._link.say_ended(number, status=1)
            return
        if worker is not None:
            del self._pending[number]
            self._in_use[number] = device
            self.crew.add(worker)
        elif time.monotonic() >= pending.until_s:
            names = ", ".join(self._starter.leases.names) if self._starter.leases is not None else device
            self._give_up(
                number,
                f"no device of {names} was free for {LEASE_WAIT_S:g} s; each is driven by one worker. Other processes of "
                f"this cluster's jobs still have them: see `holdtrue queue`.",
            )

    def _give_up(self, number: int, why: str) -> None:
        """Start no worker of that number, which waited for a device."""
        del self._pending[number]
        self._observer.show_note(f"worker {number} is not started here: {why}")
        self._link.say_not_started(number, why)

    def turn(self) -> None:
        """Wait for something to happen, act on it, and stop workers in time."""
        self.crew.turn(self._wait_s())
        self.tell_failures()
        now_s = time.monotonic()
        self._weigh(now_s)
        for number in list(self._pending):
            self._try_to_start(number)
        action = next_stop(self.stop, interrupt_wait_s=self._spec.interrupt_wait_s)
        if action is None or action.at_s > now_s:
            return
        if action.way == "terminate":
            self.stop = replace(self.stop, terminated_at_s=now_s)
            for worker in self.crew.alive:
                worker.terminate(ends_all=self._tells_workers)
        else:
            self.stop = replace(self.stop, killed_at_s=now_s)
            self.crew.kill_all(action.reason)

    def _weigh(self, now_s: float) -> None:
        """End workers of a part of a device that hold more memory than their own."""
        memory = self._starter.memory
        if memory is None or now_s < self._weighed_s + LOOK_EVERY_S:
            return
        self._weighed_s = now_s
        before, self._over = self._over, set()
        for worker in self.crew.alive:
            held = held_bytes(worker.process.pid)
            sentence = memory.judge(worker.number, held)
            if not sentence:
                continue
            self._over.add(worker.number)
            if not worker.condemned and (worker.number in before or memory.ends_at_once(held)):
                worker.condemn(sentence)

    def _wait_s(self) -> float:
        action = next_stop(self.stop, interrupt_wait_s=self._spec.interrupt_wait_s)
        until_stop_s = action.at_s - time.monotonic() if action else TICK_S
        return max(0.0, min(TICK_S, until_stop_s))

    def interrupt(self, count: int, *, is_told: bool = True) -> None:
        """Count signals that came to this process.

        Args:
            count: How many.
            is_told: Whether the controller knows that the job is to end; else the workers are told.
        """
        self._tells_workers = self._tells_workers or not is_told
        self.stop = count_interrupts(self.stop, count, time.monotonic())

    def _obey(self) -> None:
        for order in self._link.take_orders():
            match order:
                case Start():
                    if self._may_start:
                        self.start(order.worker, order.device)
                case Kill():
                    self._kill(order)
                case Finish():
                    self.finish = self.finish or order
                    over_s = time.monotonic()
                    # After a failure the others have nothing left to do; else their scripts come to their end.
                    self.stop = (
                        replace(self.stop, failed_at_s=self.stop.failed_at_s or over_s)
                        if order.how == "failed"
                        else replace(self.stop, finished_at_s=self.stop.finished_at_s or over_s)
                    )

    def _kill(self, order: Kill) -> None:
        worker = self.crew.workers.get(order.worker)
        if order.worker in self._pending:
            self._give_up(order.worker, order.reason)
        elif worker is not None and worker.is_alive:
            self._observer.show_note(f"worker {order.worker} killed: {order.reason}")
            worker.kill_group()

    def tell_failures(self, *, force: bool = False) -> None:
        """Say which scripts ended with an error and did not fail the job: those of workers that had not entered it.

        Args:
            force: Also of those that the controller may still take for members' failures.
        """
        is_failed = self.stop.failed_at_s is not None or (
            self.finish is not None and self.finish.how == "failed"
        )
        if is_failed:
            return  # the job's own end says it
        due = [end for at_s, end in self._failures if force or time.monotonic() >= at_s + _VERDICT_S]
        self._failures = [(at_s, end) for at_s, end in self._failures if end not in due]
        for end in due:
            said = (end.sentence or f"it {describe_status(end.status)}.").splitlines()[-1]
            self._observer.show_note(
                f"worker {end.worker} failed before it entered the job, which goes on without it: {said} Its log is {end.log}"
            )

    def _see_end(self, worker: Worker, end: WorkerEnd) -> None:
        self._in_use.pop(worker.number, None)
        was_interrupted = self.stop.interrupts > 0
        fails = fails_elastic_job(end, was_interrupted=was_interrupted)
        if fails and not end.finished:  # else it was a member, whatever its script did after its end
            self._failures.append((time.monotonic(), end))
        if fails and self.stop.failed_at_s is None and not self._link.is_connected:
            self.stop = replace(self.stop, failed_at_s=time.monotonic())  # nobody is there who could judge it
        at = worker.read_at()
        sentence = (end.sentence or f"it {describe_status(end.status)}") if fails else ""
        self._link.say_ended(
            worker.number,
            status=end.status,
            sentence=sentence,
            at=(at.step, at.round, at.virtual_node) if at is not None and end.status < 0 else None,
            has_left=end.interrupted or (end.status == 0 and not end.finished),
        )
        if end.status < 0 and not end.was_stopped and not was_interrupted and self.finish is None:
            where = f" in the pass of virtual node {at.virtual_node}, step {at.step}" if at else ""
            self._observer.show_note(
                f"worker {worker.number} {describe_status(end.status)}{where}; its log is {worker.log_path}"
            )
        self.crew.hand_over()
