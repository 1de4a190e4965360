"""A command's side: finding a cluster's scheduler, asking it, and starting it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from holdtrue.cluster import LogRecord, record_from_values
from holdtrue.errors import GroupError, UsageError, WaitTimeoutError
from holdtrue.service import Caller, CallerWords, read_tokens

from ._engine_choice import EngineChoice
from ._pages import MOST_JOBS, Which
from ._records import Place
from ._request import JobRequest, request_to_values
from ._serve import check_not_alive, is_alive, make_folder, read_address

START_WAIT_S = 30.0
"""What a scheduler has until it answers."""
RAY_WAIT_S = 200.0
"""The same with Ray, which may have to be started: 5 s on an idle machine."""
_LOOK_S = 0.05
_LOG_PAGE = 200
"""Records of an answer: each names the devices of every job that runs, and an answer has a bound."""
_WORDS = CallerWords(
    who="the scheduler",
    silent="Jobs go on without it; ask again, or see scheduler.log in its folder.",
    gone="Jobs go on without it; `holdtrue cluster start` finds them again.",
    found_by="`holdtrue cluster start`",
)


def cluster_folder(env: Mapping[str, str], folder: Path | None = None) -> Path:
    """The folder of the user's cluster: the given one, `HOLDTRUE_CLUSTER`, or one among the user's state files."""
    if folder is not None:
        return folder.absolute()
    if env.get("HOLDTRUE_CLUSTER"):
        return Path(env["HOLDTRUE_CLUSTER"]).absolute()
    state = env.get("XDG_STATE_HOME") or os.path.join(
        env.get("HOME") or os.path.expanduser("~"), ".local", "state"
    )
    return Path(state) / "holdtrue" / "cluster"


@final
class ClusterClient:
    """The scheduler of a cluster on this machine.

    Raises:
        UsageError: no scheduler lives in the folder.
    """

    def __init__(self, folder: Path, *, timeout_s: float = 15.0, scope: str = "admin") -> None:
        """Find it; nothing is sent yet.

        Args:
            folder: Of the cluster.
            timeout_s: Bound of each call.
            scope: `read` for who only looks.
        """
        self._place = Place(folder=folder)
        address = read_address(self._place)
        if address is None:
            raise UsageError(
                f"no cluster is running in {folder}; its scheduler takes jobs, and tells of them, while it runs. Start it with "
                f"`holdtrue cluster start --devices cpu:2` - one that was stopped has its jobs and its log again - or name its "
                f"--dir."
            )
        self.address = address
        token = read_tokens(Path(address.token_file)).by_scope[scope]
        self._caller = Caller(url=address.url, token=token, timeout_s=timeout_s, words=_WORDS)

    def health(self) -> dict[str, Any]:  # Any: JSON values
        """Process id and policy."""
        return self._caller.ask("GET", "/v1/health")

    def queue(self, which: Which = "all", *, most: int | None = None) -> dict[str, Any]:  # Any: JSON values
        """Devices, policy and jobs: the fields of `GET /v1/queue`.

        Args:
            which: Jobs that are `waiting`, `running` or `open` (both); those that are `over`, the newest first; or `all`.
                But for `over`, in order of arrival.
            most: Jobs after which it asks no further; None for every page.
        """
        facts = self._page(which, 0, most)
        while facts["next"] is not None and (most is None or len(facts["jobs"]) < most):
            more = self._page(which, facts["next"], None if most is None else most - len(facts["jobs"]))
            facts = more | {"jobs": facts["jobs"] + more["jobs"]}
        return facts

    def _page(self, which: Which, after: int, most: int | None) -> dict[str, Any]:  # Any: JSON values
        limit = MOST_JOBS if most is None else max(1, min(most, MOST_JOBS))
        return self._caller.ask("GET", f"/v1/queue?which={which}&after={after}&limit={limit}")

    def submit(self, requests: Sequence[JobRequest]) -> list[str]:
        """Submit jobs, all of them or none; their names.

        Raises:
            UsageError: one can never run there.
        """
        jobs = [request_to_values(request) for request in requests]
        return [str(name) for name in self._caller.ask("POST", "/v1/submit", {"jobs": jobs})["names"]]

    def cancel(self, name: str) -> str:
        """End a job; what becomes of it.

        Raises:
            UsageError: there is no such job.
        """
        return str(self._caller.ask("POST", "/v1/cancel", {"name": name})["reason"])

    def choose_policy(self, policy: str) -> str:
        """Decide by another policy from now on.

        Raises:
            UsageError: there is none of that name for live jobs.
        """
        return str(self._caller.ask("POST", "/v1/policy", {"policy": policy})["reason"])

    def stop(self, *, ends_jobs: bool, wait_s: float) -> list[str]:
        """End the scheduler; names of the jobs that ran.

        Raises:
            WaitTimeoutError: it still lives after `wait_s` seconds.
        """
        running = [str(n) for n in self._caller.ask("POST", "/v1/stop", {"ends_jobs": ends_jobs})["running"]]
        until_s = time.monotonic() + wait_s
        while is_alive(self._place):
            if time.monotonic() > until_s:
                raise WaitTimeoutError(
                    f"the scheduler (process {self.address.pid}) still lives after {wait_s:g} s; it waits for jobs to come "
                    f"to a step boundary. Wait on, or see {self._place.log}."
                )
            time.sleep(_LOOK_S)
        return running

    def log(self) -> list[LogRecord]:
        """The whole log."""
        return [record for page in self.log_pages() for record in page]

    def log_pages(self, *, after: int = 0) -> Iterator[list[LogRecord]]:
        """The log from the record of a number on, page by page."""
        while page := self._caller.ask("GET", f"/v1/log?after={after}&limit={_LOG_PAGE}")["records"]:
            records = [record_from_values(values) for values in page]
            after = records[-1].number
            yield records


def start_cluster(
    folder: Path,
    *,
    devices: str,
    queues: str,
    policy: str,
    engine: EngineChoice | None = None,
    memory_bytes: int | None = None,
) -> ClusterClient:
    """Start a scheduler in the background.

    Args:
        folder: Where it keeps its files.
        devices: `cpu:2`; empty for those that the folder's cluster had.
        queues: `research=1,product=1`.
        policy: Name; empty for the one that was in force, or wfs.
        engine: What runs the jobs; None for what it had, or the embedded one.
        memory_bytes: Memory that goes with one CPU slot; None for what it had, or the machine's part.

    Raises:
        UsageError: a scheduler lives there, or the cluster cannot be as asked.
        WaitTimeoutError: it does not answer in time.

    Blocks:
        Until it answers, at most 30 s; with Ray, or where it is not said that it is not, 200 s.
    """
    place = Place(folder=folder)
    check_not_alive(place)
    make_folder(folder)
    with place.log.open("ab") as log:
        begin = log.tell()
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "holdtrue.scheduler"),
                *(str(folder), devices, queues, policy, engine.to_text() if engine is not None else ""),
                "" if memory_bytes is None else str(memory_bytes),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    wait_s = START_WAIT_S if engine is not None and engine.name != "ray" else RAY_WAIT_S
    until_s = time.monotonic() + wait_s
    while (address := read_address(place)) is None or address.pid != process.pid:
        if process.poll() is not None:
            raise _why_not(
                place.log.read_bytes()[begin:].decode(errors="replace"), process.returncode, place.log
            )
        if time.monotonic() > until_s:
            process.kill()
            process.wait()
            raise WaitTimeoutError(
                f"the scheduler did not answer within {wait_s:g} s and was ended. See {place.log}, and start it again."
            )
        time.sleep(_LOOK_S)
    process.returncode = 0  # it goes on without this process
    client = ClusterClient(folder)
    client.health()
    return client


def _why_not(said: str, status: int, log: Path) -> Exception:
    errors = [line.removeprefix("error: ") for line in said.splitlines() if line.startswith("error: ")]
    if status == 2 and errors:
        return UsageError(errors[-1])
    return GroupError(
        f"the scheduler ended with status {status} before it answered. See {log}, and start it again."
    )
