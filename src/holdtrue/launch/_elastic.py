"""Running an elastic job: this machine is its first host, and keeps its controller alive."""

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import final

from holdtrue.elastic import ControlClient, HostLink
from holdtrue.errors import HoldtrueError, UsageError
from holdtrue.service import listen, url_of, write_private
from holdtrue.wire import Finish

from ._controller import ControllerProcess
from ._describe import describe_job, description_to_json
from ._devices import assign_devices, count_devices, count_slots
from ._host import Host, Starter
from ._job import JobResult, JobSpec
from ._judge import INTERRUPTED, fails_elastic_job, judge_elastic_job
from ._launch import INTERRUPT_NOTE, check_start, cuda_devices_of, life_pipe, make_run_dir
from ._lookout import Group, Lookout
from ._observer import JobObserver
from ._place import Place
from ._registry import JobEntry, check_run_dir, jobs_folder, register
from ._restarts import HANG_WAIT_S
from ._signals import catch_interrupts
from ._watchman import Guard

_ASK_WAIT_S = 5.0
"""What the controller has to answer the wish to stop."""
_LAST_WORDS_S = 2.0
"""What the controller has to tell other hosts that the job failed here."""


def launch_elastic_job(
    spec: JobSpec, observer: JobObserver, on_start: Callable[[JobEntry], None] | None = None
) -> JobResult:
    """Run a job whose workers may change, starting on this machine, to its end.

    Args:
        spec: What to start.
        observer: Who is told what happens; called in this thread.
        on_start: Called once with where the job's controller can be asked.

    Raises:
        UsageError: there is no such script or device, the name is taken, the run directory cannot be made, nothing can
            listen on the address, or there is no room for the job's files and processes.

    Guarantee:
        No process of the job is left on this machine when this returns or raises, nor 32 s after this process
        was killed. An exception in the script of a member ends the others within 6 s; a death does not, nor does an
        exception in a worker that was only about to join.

    Blocks:
        Until the job ends. One SIGINT or SIGTERM (main thread) asks the job to stop at the step boundary,
        for at most `spec.interrupt_wait_s`; the second kills the workers.
    """
    check_start(spec)
    devices = () if spec.is_elsewhere else _devices_here(spec)
    started_s = time.monotonic()
    with ExitStack() as stack:
        interrupt_fd = stack.enter_context(catch_interrupts())
        try:
            job = _ElasticJob(spec, observer, devices, stack)
            entry = job.publish()
        except OSError as error:
            raise UsageError(
                f"the job cannot be started ({error.strerror}{f': {error.filename}' if error.filename else ''}); it needs "
                f"room for its files in {jobs_folder(os.environ)} and {spec.run_dir}, and for its processes. Make room, or set "
                f"XDG_RUNTIME_DIR to another folder of your own."
            ) from None
        if on_start is not None:
            on_start(entry)
        job.run(interrupt_fd)
        return job.result(time.monotonic() - started_s)


@final
class _ElasticJob:
    """The launcher of one elastic job: its host, its controller's process, its place among the user's jobs."""

    def __init__(
        self, spec: JobSpec, observer: JobObserver, devices: tuple[str, ...], stack: ExitStack
    ) -> None:
        """Start everything; `stack` ends it."""
        jobs = jobs_folder(os.environ)
        check_run_dir(jobs, str(spec.run_dir.absolute()))
        name, self._registration = register(
            jobs, spec.name, is_given=spec.is_name_given, join_token=spec.join_token
        )
        stack.callback(self._registration.close)
        make_run_dir(spec)  # not before: a start that is refused leaves no folder
        self._spec = spec = replace(spec, name=name)
        self._observer = observer
        listener = stack.enter_context(listen(spec.listen, spec.listen_port))
        self._url = url_of(listener)
        self._tokens = self._registration.tokens
        write_private(
            self._registration.description_file, json.dumps(description_to_json(describe_job(spec)))
        )
        self._controller = ControllerProcess(
            tokens=self._registration.token_file,
            job=self._registration.job_file,
            description=self._registration.description_file,
            memory=self._registration.memory_file,
            listener=listener,
            log=spec.run_dir / "logs" / "controller.log",
        )
        stack.callback(self._controller.close)
        link = HostLink(
            url=self._url,
            token=self._tokens["join"],
            name="launcher",
            address=spec.listen,
            slots=0 if spec.is_elsewhere else _slots_here(spec),
        )
        stack.callback(link.close)
        guard = Guard(wait_s=spec.orphan_wait_s)
        stack.callback(guard.close)
        place = Place(
            url=self._url,
            token_file=self._registration.join_file,
            address=spec.listen,
            logs=spec.run_dir / "logs",
            group_timeout_s=spec.group_timeout_s,
        )
        life_fd = stack.enter_context(life_pipe())
        starter = Starter.told_by(os.environ, spec=spec, place=place, guard=guard, life_fd=life_fd)
        self._link = link
        self._asking: threading.Thread | None = None
        self._looked_s = time.monotonic()
        """When it was last looked whether the controller hangs."""
        self._is_told = False
        """Whether the controller has the wish to stop."""
        self._host = Host(spec, observer, starter=starter, link=link, devices=devices)
        stack.callback(self._host.crew.close)
        for number, device in enumerate(devices):  # at once: torch takes longer to load than the controller
            self._host.start(number, device)
        self._start_controller()
        link.start()
        self._lookout = Lookout(
            ControlClient(url=self._url, token=self._tokens["read"], timeout_s=_ASK_WAIT_S)
        )
        stack.callback(self._lookout.close)
        self._group: Group | None = None

    def publish(self) -> JobEntry:
        """Let commands find the job; what they find."""
        entry = JobEntry(
            name=self._spec.name,
            url=self._url,
            pid=os.getpid(),
            run_dir=str(self._spec.run_dir.absolute()),
            token_file=str(self._registration.token_file),
            join_file=str(self._registration.join_file),
            script=self._spec.title,
            started_s=time.time(),
            resume_command=self._spec.resume_command,
        )
        self._registration.publish(entry)
        return entry

    def run(self, interrupt_fd: int) -> None:
        """Until the job is over and no worker lives here."""
        host = self._host
        host.crew.watch(interrupt_fd, lambda: self._read_interrupts(interrupt_fd))
        while not self._is_over:
            host.turn()
            self._show_group()
            if self._controller.is_due(time.monotonic()):
                self._start_controller()
            self._end_hang(time.monotonic())
            if self._asking is not None and not self._asking.is_alive():
                self._asking = None
                host.interrupt(1, is_told=self._is_told)
        self._let_others_hear()
        host.crew.drain(waits=host.stop.killed_at_s is None)

    def _show_group(self) -> None:
        seen = self._lookout.seen
        if seen is not None and seen != self._group:
            self._group = seen
            self._observer.show_group(seen.workers, seen.generation)

    @property
    def _is_over(self) -> bool:
        if self._host.is_over or self._host.crew.alive:
            return self._host.is_over
        # Nobody lives here. Who asked the job to stop waits for workers elsewhere, if their controller knows of it.
        is_stopped_alone = self._host.stop.interrupts > 0 and self._asking is None and not self._is_told
        return is_stopped_alone or self._controller.is_given_up

    def _end_hang(self, now_s: float) -> None:
        """Where no worker lives here, only the controller can say that the job is over: one that hangs is ended.

        Time in which this process itself stood still does not count: nobody asked the controller then.
        """
        if now_s > self._looked_s + HANG_WAIT_S / 2:
            self._controller.forgive(now_s)
        self._looked_s = now_s
        if not self._host.crew.alive and self._controller.end_if_it_hangs(self._lookout.answered_s, now_s):
            self._observer.show_note(
                f"no worker lives here, and the controller has not answered for {HANG_WAIT_S:g} s: it is killed"
            )

    def _let_others_hear(self) -> None:
        """Give the controller a moment to tell other hosts of a failure here: it ends with this process."""
        until_s = time.monotonic() + _LAST_WORDS_S
        while self._host.finish is None and self._link.is_connected and time.monotonic() < until_s:
            self._host.turn()

    def result(self, seconds: float) -> JobResult:
        """How the job ended; call it after `run`."""
        finish = self._host.finish
        was_interrupted = self._host.stop.interrupts > 0
        verdict = judge_elastic_job(
            self._host.crew.ends,
            script=self._spec.title,
            was_interrupted=was_interrupted,
            how_over=finish.how if finish is not None else None,
        )
        found = self._host.crew.result(verdict, was_interrupted=was_interrupted, seconds=seconds)
        is_over_well = finish is not None and finish.how in ("finished", "stopped")
        self._host.tell_failures(force=is_over_well or verdict.exit_code == 0)
        result = replace(
            found,
            has_finished=finish is not None and finish.how == "finished",
            reason=reason_of(finish, found),
            generation=self._group.generation if self._group is not None else None,
        )
        try:
            self._registration.end(
                exit_code=result.exit_code, ending=describe_ending(result), ended_s=time.time()
            )
        except OSError as error:
            self._observer.show_note(
                f"how the job ended could not be written ({error.strerror}): `holdtrue status` takes its launcher for killed"
            )
        return result

    # --- the controller ---------------------------------------------------------------------------

    def _start_controller(self) -> None:
        try:
            pidfd = self._controller.start(describe_settings(self._spec))
        except OSError as error:
            self._observer.show_note(self._controller.see_failed_start(error))
            return
        self._host.crew.watch(pidfd, lambda: self._see_controller_end(pidfd))

    def _see_controller_end(self, pidfd: int) -> None:
        self._host.crew.unwatch(pidfd)
        os.close(pidfd)
        note = self._controller.see_death()
        if self._host.finish is None:
            self._observer.show_note(note)

    # --- interrupts -------------------------------------------------------------------------------

    def _read_interrupts(self, fd: int) -> None:
        count = len(os.read(fd, 64))
        is_first = self._asking is None and self._host.stop.interrupts == 0
        if not is_first or count > 1:
            self._asking = None
            self._host.interrupt(2)
            return
        self._observer.show_note(INTERRUPT_NOTE)
        self._asking = threading.Thread(target=self._ask_to_stop, name="holdtrue-stop", daemon=True)
        self._asking.start()

    def _ask_to_stop(self) -> None:
        """Tell the controller first, so that it takes no worker's SIGTERM for a wish to leave."""
        client = ControlClient(url=self._url, token=self._tokens["admin"], timeout_s=_ASK_WAIT_S)
        with suppress(HoldtrueError):  # without it the workers are told, and tell each other
            client.stop("the launcher was interrupted")
            self._is_told = True


def _devices_here(spec: JobSpec) -> tuple[str, ...]:
    return spec.devices or assign_devices(spec.device, spec.workers, cuda_devices_of(spec))


def _slots_here(spec: JobSpec) -> int:
    here = count_devices(spec.device, spec.threads, os.environ)
    return count_slots(spec.workers, spec.most_workers, here)


def reason_of(finish: Finish | None, result: JobResult) -> str | None:
    """What the controller said of the end, where the workers here do not say it themselves. Pure."""
    if finish is None or (
        finish.how == "failed" and any(fails_elastic_job(end, was_interrupted=False) for end in result.ends)
    ):
        return None
    return finish.reason


def describe_settings(spec: JobSpec) -> dict[str, object]:
    """What the controller is told of the job. Pure."""
    return {
        "name": spec.name,
        "workers": spec.workers,
        "least": spec.least_workers,
        "most": spec.most_workers,
        "restarts": spec.restarts,
        "group_timeout_s": spec.group_timeout_s,
        "mapping": spec.mapping,
    }


def describe_ending(result: JobResult) -> str:
    """How a job ended, as a sentence. Pure."""
    steps = "" if not result.steps else f" after {result.steps} step{'s' if result.steps != 1 else ''}"
    if result.exit_code == 0:
        return f"It finished{steps}."
    if result.has_finished:
        return f"It finished{steps}; then its script {result.failures[0].how}."
    kept = "" if result.checkpoint_step is None else f" The last checkpoint is step {result.checkpoint_step}."
    if result.was_interrupted or result.exit_code == INTERRUPTED:
        return f"It was stopped{steps}.{kept}"
    said = next((failure.sentence or failure.how for failure in result.failures), result.reason)
    last_line = said.splitlines()[-1].rstrip(".") if said else "its logs say why"
    return f"It failed{steps}: {last_line}.{kept}"
