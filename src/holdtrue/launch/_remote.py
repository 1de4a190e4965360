"""A host that joins a running job with one device of this machine: `holdtrue worker --join`."""

import os
import secrets
import socket
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from typing import final

from holdtrue.elastic import HostLink
from holdtrue.errors import UsageError

from ._describe import JobDescription
from ._devices import assign_devices
from ._host import Host, Starter
from ._job import JobResult, JobSpec
from ._judge import judge_elastic_job
from ._launch import check_start, cuda_devices_of, life_pipe
from ._observer import JobObserver
from ._place import Place
from ._registry import write_private
from ._signals import catch_interrupts
from ._watchman import Guard

CONNECT_WAIT_S = 20.0
"""What the controller has to answer when this host comes."""
GONE_WAIT_S = 15.0
"""How long a host without a living worker waits for a controller that cannot be reached: it may be started again."""


def join_job(
    description: JobDescription, observer: JobObserver, *, url: str, token: str, device: str | None
) -> JobResult:
    """Run one worker of a job on this machine until it leaves or the job ends.

    Args:
        description: What the job runs, as its controller says.
        observer: Who is told what happens; called in this thread.
        url: Where the controller listens.
        token: Of scope join.
        device: The device that the worker drives; None for the job's kind.

    Raises:
        UsageError: the script is not here, or there is no such device.
        WaitTimeoutError: the controller does not answer.

    Blocks:
        Until the worker has ended. One SIGINT or SIGTERM (main thread) asks the worker to leave at the step boundary; the
        second kills it.
    """
    started_s = time.monotonic()
    with ExitStack() as stack:
        interrupt_fd = stack.enter_context(catch_interrupts())
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holdtrue-worker-")))  # mode 0700
        spec = spec_of(description, device, own_logs=private)
        check_start(spec)
        devices = assign_devices(spec.device, 1, cuda_devices_of(spec)) if ":" not in (device or "") else (str(device),)
        address = address_towards(url)
        write_private(private / "join", token)
        link = HostLink(
            url=url,
            token=token,
            name=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
            address=address,
            slots=1,
            adds=1,
        )
        stack.callback(link.close)
        guard = Guard(wait_s=spec.orphan_wait_s)
        stack.callback(guard.close)
        place = Place(
            url=url,
            token_file=private / "join",
            address=address,
            logs=spec.run_dir / "logs",
            group_timeout_s=spec.group_timeout_s,
        )
        starter = Starter(
            spec=spec, place=place, guard=guard, life_fd=stack.enter_context(life_pipe())
        )
        host = Host(spec, observer, starter=starter, link=link, devices=devices)
        stack.callback(host.crew.close)
        host.crew.watch(interrupt_fd, lambda: host.interrupt(len(os.read(interrupt_fd, 64))))
        link.start()
        link.wait_until_connected(CONNECT_WAIT_S)
        _run(host, link)
        return _result(host, spec, time.monotonic() - started_s)
