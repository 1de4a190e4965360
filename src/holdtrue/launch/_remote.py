"""A host that joins a running job with one device of this machine: `holdtrue worker --join`."""

import os
import secrets
import socket
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import final
from urllib.parse import urlsplit

from holdtrue.elastic import ControlClient, HostLink
from holdtrue.errors import GroupError, UsageError
from holdtrue.service import write_private

from ._describe import description_from_json, spec_for_host
from ._devices import assign_devices, local_task
from ._elastic import reason_of
from ._host import Host, Starter
from ._job import JobResult, JobSpec
from ._judge import INTERRUPTED, HowOver, judge_guest
from ._launch import check_start, cuda_devices_of, life_pipe, make_run_dir
from ._observer import JobObserver
from ._place import Place
from ._reach import reach
from ._signals import catch_interrupts
from ._watchman import Guard
from ._worker import TOKEN_VARIABLE

CONNECT_WAIT_S = 20.0
"""What the controller has to answer when this host comes: it may be about to be started again."""
GONE_WAIT_S = 30.0
"""How long a host without a worker waits for a controller that cannot be reached."""
LAST_WORDS_WAIT_S = 15.0
"""How long a host waits at its end for a controller that it can tell how its worker ended: more than one takes to be started
again. Nobody else can tell it, and without it the others wait for the worker until the group's time-out."""
_FLUSH_WAIT_S = 1.0
TOKEN_WAY_OUT = f"Copy the file that `holdtrue status JOB` names there, and give it with --token-file or in {TOKEN_VARIABLE}."
LEAVE_NOTE = "the worker leaves at the next boundary; Ctrl-C again kills it"


def join_job(
    observer: JobObserver,
    *,
    url: str,
    token: str,
    device: str | None,
    wait_s: float = 0.0,
    name: str | None = None,
    adds: int = 1,
    interrupts: int | None = None,
) -> JobResult:
    """Run one worker of a job on this machine until it leaves or the job ends.

    Args:
        observer: Who is told what happens; called in this thread.
        url: Where the job's controller listens; a name in it stands for its address.
        token: Of scope join.
        device: A kind of device, or one such as `cuda:1`; None for the job's kind.
        wait_s: How long the job may take to be there.
        name: Name of this host in the job; None makes one up.
        adds: 1 makes the job larger by this device; 0 fills a place that it has open.
        interrupts: Descriptor on which each byte counts as a signal, for a caller that runs this outside the main
            thread; None takes SIGINT and SIGTERM.

    Raises:
        UsageError: the script is not here, there is no such device, or the controller does not know the token.
        GroupError, WaitTimeoutError: the controller refuses or does not answer.

    Guarantee:
        No process is left when this returns or raises, nor 32 s after this process was killed.

    Blocks:
        `wait_s` for the job, and until the worker has ended and the controller knows of it, for which it waits at most
        `LAST_WORDS_WAIT_S`. One SIGINT or SIGTERM (main thread) ends the wait, or asks the worker to leave at the step
        boundary; the second kills it.
    """
    started_s = time.monotonic()
    ControlClient(url=url, token=token)  # refuses what is no URL, before anything waits for it
    with ExitStack() as stack:
        interrupt_fd = interrupts if interrupts is not None else stack.enter_context(catch_interrupts())
        reached = reach(url, wait_s=wait_s, interrupt_fd=interrupt_fd)
        if reached is None:
            return _never_joined(time.monotonic() - started_s)
        url = reached
        description = description_from_json(
            ControlClient(
                url=url, token=token, timeout_s=CONNECT_WAIT_S, token_way_out=TOKEN_WAY_OUT
            ).description()
        )
        private = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="holdtrue-worker-"))
        )  # mode 0700
        spec = spec_for_host(description, device=device, run_dir=_run_dir_here(description.settings, private))
        check_start(spec)
        make_run_dir(spec)
        write_private(private / "join", token)
        address = address_towards(url)
        link = HostLink(url=url, token=token, name=name or _own_name(), address=address, slots=1, adds=adds)
        stack.callback(link.close)
        guard = Guard(wait_s=spec.orphan_wait_s)
        stack.callback(guard.close)
        place = Place(
            url=url,
            token_file=private / "join",
            address=address,
            logs=spec.run_dir / "logs",
            is_guest=True,
            group_timeout_s=spec.group_timeout_s,
        )
        life_fd = stack.enter_context(life_pipe())
        starter = Starter.told_by(os.environ, spec=spec, place=place, guard=guard, life_fd=life_fd)
        host = Host(spec, observer, starter=starter, link=link, devices=_devices_of(spec, device))
        stack.callback(host.crew.close)
        guest = _Guest(host, link, observer)
        host.crew.watch(interrupt_fd, lambda: guest.read_interrupts(interrupt_fd))
        link.start()
        link.wait_until_connected(CONNECT_WAIT_S)
        observer.show_note(f"joined the job {spec.name} as {address}; the log is in {place.logs}")
        guest.run()
        return guest.result(spec, time.monotonic() - started_s)


@final
class _Guest:
    """The loop of a host with one worker."""

    def __init__(self, host: Host, link: HostLink, observer: JobObserver) -> None:
        self._host = host
        self._link = link
        self._observer = observer
        self._seen_s = time.monotonic()

    def run(self) -> None:
        """Until the one worker has ended, or none will be started."""
        while not self._is_over(time.monotonic()):
            self._host.turn()
        self._say_last_words()
        self._host.crew.drain(waits=self._host.stop.killed_at_s is None)

    def _say_last_words(self) -> None:
        """Wait until the controller knows how the worker ended; one that is started again is told by the first words."""
        self._host.starts_nobody = True
        interrupts, has_said_so = self._host.stop.interrupts, False
        until_s = time.monotonic() + LAST_WORDS_WAIT_S
        while not self._link.flush(_FLUSH_WAIT_S):
            is_idle = self._host.finish is not None or not self._host.crew.ends
            if is_idle or self._link.is_refused or self._host.stop.interrupts > interrupts:
                return  # there is nothing to tell, nobody who hears it, or the user does not want to wait
            if time.monotonic() >= until_s:
                self._observer.show_note(
                    f"the controller could not be told within {LAST_WORDS_WAIT_S:.0f} s how the worker ended "
                    f"({self._link.trouble}); the others notice when they have waited for it in vain"
                )
                return
            if not has_said_so:
                has_said_so = True
                self._observer.show_note(
                    f"waiting for the controller, to tell it how the worker ended, for at most "
                    f"{LAST_WORDS_WAIT_S:.0f} s; Ctrl-C does not wait"
                )
            self._host.turn()

    def _is_over(self, now_s: float) -> bool:
        if self._link.is_connected:
            self._seen_s = now_s
        if self._host.crew.alive:
            return False
        has_had_one = bool(self._host.crew.workers)
        is_ending = self._host.finish is not None or self._host.stop.interrupts > 0
        if not (has_had_one or is_ending) and now_s - self._seen_s > GONE_WAIT_S:
            raise GroupError(
                f"the controller could not be reached for {GONE_WAIT_S:.0f} s ({self._link.trouble}), and this host runs no "
                f"worker; the job has ended, or its machine is gone. Join again when `holdtrue status` there shows it."
            )
        return has_had_one or is_ending

    def read_interrupts(self, fd: int) -> None:
        """Count signals: the first asks the worker to leave, the second kills it."""
        before = self._host.stop.interrupts
        self._host.interrupt(len(os.read(fd, 64)))
        if before == 0:
            self._observer.show_note(LEAVE_NOTE)

    def result(self, spec: JobSpec, seconds: float) -> JobResult:
        """How the worker ended; one that left as it was asked ended well."""
        crew, stop = self._host.crew, self._host.stop
        how_over: HowOver | None = self._host.finish.how if self._host.finish is not None else None
        verdict = judge_guest(
            crew.ends, script=spec.title, was_asked_to_leave=stop.interrupts == 1, how_over=how_over
        )
        found = crew.result(verdict, was_interrupted=stop.interrupts > 1, seconds=seconds)
        return replace(found, reason=reason_of(self._host.finish, found))


def _never_joined(seconds: float) -> JobResult:
    """The end of a host that was interrupted before there was a job."""
    return JobResult(
        exit_code=INTERRUPTED,
        failures=(),
        was_interrupted=True,
        ends=(),
        steps=None,
        digest=None,
        loss=None,
        checkpoint_step=None,
        seconds=seconds,
    )


def address_towards(url: str) -> str:
    """This machine's address on the way to a URL's host; nothing is sent.

    Raises:
        UsageError: there is no way to it.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise UsageError(
            f"there is no way from this machine to {host} ({error.strerror}); a host joins a job that it can reach. "
            f"Take the URL that the job printed, and see `ip route`."
        ) from error


def _own_name() -> str:
    return f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(3)}"


def _run_dir_here(settings: Mapping[str, object], private: Path) -> Path:
    """The job's run directory where this machine sees it (for the logs), else a folder that is deleted at the end."""
    folder = Path(str(settings.get("run_dir", "")))
    return folder if folder.is_absolute() and (folder / "logs").is_dir() else private


def _devices_of(spec: JobSpec, device: str | None) -> tuple[str, ...]:
    here = cuda_devices_of(spec)
    if device is None or ":" not in device:
        task = local_task(os.environ)
        return assign_devices(spec.device, task + 1, here)[task:]
    index = device.partition(":")[2]
    if not (index.isascii() and index.isdecimal() and int(index) < here):
        raise UsageError(
            f"the device is {device!r} and this machine shows {here} CUDA device(s), from cuda:0. Name one of them."
        )
    return (device,)
