"""The scheduler's side of Ray: what was asked for, what was seen last, and the process that speaks with Ray."""

import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

from holdtrue.errors import GroupError, UsageError, WaitTimeoutError
from holdtrue.wire import escape_text

from .._hosts import HostEnd, HostEngine, HostLook, HostOrder
from ._choice import READY, RayCluster

_log = logging.getLogger("holdtrue.scheduler")

CONNECT_WAIT_S = 60.0
"""What Ray has until it took the agent in."""
ANSWER_WAIT_S = 15.0
"""What the agent has for one answer; Ray's own waits on a cluster that is gone are longer."""
LOOK_EVERY_S = 0.25
LOST_AFTER_S = 45.0
"""How long a cluster that cannot be reached may still have its hosts; after that they count as lost with it."""
_END_WAIT_S = 5.0
_KEPT = ("living", "waiting", "devices", "addresses", "nodes")
"""What is kept of a look until the next one."""


@final
class RayHosts(HostEngine):
    """Hosts as actors of a Ray cluster. Thread-safe; a thread of its own speaks with the agent.

    Args:
        find: Finds the cluster, or starts it anew; called again after it was lost.
        address: Of the cluster, if it is known before.
        namespace: Tells this scheduler's actors from those of others.
        log: File for what the agent prints.
        way_out: What a user can do where none answers.

    Raises:
        UsageError: no cluster answers there.

    Blocks:
        Until the cluster answered once, at most 75 s, and what `find` takes.
    """

    def __init__(
        self, find: Callable[[], RayCluster], *, address: str, namespace: str, log: Path, way_out: str
    ) -> None:
        self._find, self._namespace, self._log = find, namespace, log
        self._cluster = RayCluster(address=address)
        self._way_on = (
            "Look at its machine; for another --address end the jobs first (`holdtrue cluster stop --jobs`)"
            if address
            else f"It is started again by itself; see {log}"
        )
        self._changed = threading.Condition()
        self._asked: list[dict[str, Any]] = []  # Any: JSON values
        self._starting: set[str] = set()
        self._ended: dict[str, HostEnd] = {}
        self._seen: dict[str, Any] = {
            "living": [],
            "waiting": [],
            "devices": {},
            "addresses": [],
            "nodes": [],
        }
        self._trouble, self._closing = "", threading.Event()
        self._agent: subprocess.Popen[bytes] | None = None
        self._unread = b""
        try:
            self._connect()
            self._look()
        except (GroupError, WaitTimeoutError, OSError) as error:
            self._end_agent()
            why = str(error).rstrip(".")
            raise UsageError(f"the Ray cluster{self._at} cannot be used: {why}. {way_out}") from None
        self._thread = threading.Thread(target=self._work, name="holdtrue-ray", daemon=True)
        self._thread.start()

    # --- what the scheduler asks -------------------------------------------------------------------------

    def devices(self) -> Mapping[str, int]:
        """CPUs of the living nodes, in use or not."""
        with self._changed:
            return dict(self._seen["devices"])

    def addresses(self) -> list[str]:
        """Addresses of the living nodes."""
        with self._changed:
            return list(self._seen["addresses"])

    def start(self, order: HostOrder) -> None:
        """Ask for a host."""
        with self._changed:
            self._starting.add(order.name)
            self._ask({"ask": "start", "order": asdict(order) | {"environment": dict(order.environment)}})

    def stop(self, name: str, *, at_once: bool) -> None:
        """Have a host leave, or end at once."""
        with self._changed:
            self._ask({"ask": "stop", "name": name, "at_once": at_once})

    def _ask(self, what: dict[str, Any]) -> None:
        if what not in self._asked:
            self._asked.append(what)
            self._changed.notify_all()

    def look(self) -> HostLook:
        """What was seen last, and what was asked for since then."""
        with self._changed:
            return HostLook(
                living=frozenset(self._seen["living"]) | self._starting,
                waiting=frozenset(self._seen["waiting"]) | self._starting,
                ended=dict(self._ended),
                trouble=self._trouble,
            )

    def forget(self, name: str) -> None:
        """The end of a host was noted."""
        with self._changed:
            self._ended.pop(name, None)

    def close(self, *, ends_all: bool) -> None:
        """Let go of the cluster; end it if it is this scheduler's own and nobody needs it.

        Blocks:
            At most 45 s: 15 for an answer that is awaited, 5 for the agent's end, 25 for that of Ray.
        """
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        self._thread.join(ANSWER_WAIT_S)
        self._end_agent()
        if ends_all:
            self._cluster.end()

    @property
    def _at(self) -> str:
        return f" at {self._cluster.address}" if self._cluster.address else ""

    # --- the agent ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Carry out what is asked, and look, until closed; through the deaths of agents."""
        well_s = time.monotonic()
        while not self._closing.is_set():
            try:
                if self._agent is None:
                    self._connect()
                self._carry_out()
                self._look()
                well_s = time.monotonic()
            except (GroupError, WaitTimeoutError, OSError, ValueError, KeyError) as error:
                self._end_agent()
                if self._closing.is_set():
                    return
                self._note_trouble(str(error), lost=time.monotonic() > well_s + LOST_AFTER_S)
            with self._changed:
                self._changed.wait_for(lambda: self._asked or self._closing.is_set(), LOOK_EVERY_S)
            if self._trouble:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing.is_set(), 1.0)

    def _note_trouble(self, why: str, *, lost: bool) -> None:
        """Say that the cluster cannot be reached; after a while its hosts count as lost with it."""
        sentence = (
            f"the Ray cluster{self._at} cannot be reached ({why.rstrip('.')}); jobs start and grow again when it can. "
            f"{self._way_on}"
        )
        with self._changed:
            if not self._trouble:
                _log.error("%s", escape_text(sentence))
            self._trouble = sentence
            if lost:
                self._lose_all()

    def _lose_all(self) -> None:
        """All hosts went with the cluster."""
        sentence = f"The Ray cluster{self._at} was lost."
        for name in (*self._seen["living"], *self._starting):
            self._ended[name] = HostEnd(status=None, with_machine=True, sentence=sentence)
        self._seen |= {"living": [], "waiting": []}
        self._starting.clear()
        self._asked.clear()

    def _carry_out(self) -> None:
        while True:
            with self._changed:
                if not self._asked:
                    return
                what = self._asked[0]
            self._exchange(what)
            with self._changed:
                if self._asked and self._asked[0] == what:
                    del self._asked[0]

    def _look(self) -> None:
        seen = self._exchange({"ask": "look"})
        with self._changed:
            if self._trouble:
                _log.info("the Ray cluster at %s answers again", self._cluster.address)
                self._trouble = ""
            self._starting &= {w["order"]["name"] for w in self._asked if w["ask"] == "start"}
            if self._seen["nodes"] and not set(self._seen["nodes"]) & set(seen["nodes"]):
                self._lose_all()  # another cluster at the same address: nothing of the old one is left
                for name in seen["living"]:
                    self._ended.pop(name, None)  # was asked for of the old one, and started by this one
            before = set(self._seen["living"])
            self._seen = {key: seen[key] for key in _KEPT}
            for name, end in seen["ended"].items():
                self._ended[name] = HostEnd(**end)
                _log.info("host %s has ended: %s", name, escape_text(str(end)))
            # An agent that died knew of ends that nobody heard of.
            for name in before - set(seen["living"]) - set(self._ended):
                if name not in seen["ended"]:
                    self._ended[name] = HostEnd(status=None, sentence="Its Ray actor is gone.")

    def _connect(self) -> None:
        """Start the agent and wait until Ray took it in."""
        found = self._find()
        if self._cluster.address not in ("", found.address):
            with self._changed:
                self._lose_all()
        self._cluster = found
        with self._log.open("ab") as log:
            self._agent = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "holdtrue.scheduler.on_ray._agent",
                    found.address,
                    self._namespace,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(os.environ) | dict(found.environment),
                start_new_session=True,
            )
        self._unread = b""
        if self._read(CONNECT_WAIT_S) != READY:
            raise GroupError("its agent speaks another version")

    def _exchange(self, what: dict[str, Any]) -> Any:  # Any: JSON values
        assert self._agent is not None
        assert self._agent.stdin is not None
        self._agent.stdin.write(json.dumps(what).encode() + b"\n")
        self._agent.stdin.flush()
        return self._read(ANSWER_WAIT_S)

    def _read(self, wait_s: float) -> Any:  # Any: JSON values
        """The agent's next answer.

        Raises:
            GroupError: it ended, or says that there is no cluster.
            WaitTimeoutError: it did not answer in time.
        """
        agent = self._agent
        assert agent is not None
        assert agent.stdout is not None
        until_s = time.monotonic() + wait_s
        while b"\n" not in self._unread:
            left_s = until_s - time.monotonic()
            if (
                self._closing.is_set()
                or left_s <= 0
                or not select.select([agent.stdout], [], [], min(left_s, 0.5))[0]
            ):
                if self._closing.is_set():
                    raise GroupError("the scheduler ends")
                if left_s <= 0:
                    raise WaitTimeoutError(f"it did not answer within {wait_s:g} s")
                continue
            data = agent.stdout.read1(65536)  # type: ignore[attr-defined]  # a pipe is a BufferedReader
            if not data:
                raise GroupError(f"the process that speaks with it ended with status {_status_of(agent)}")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        said = json.loads(line)
        if "error" in said:
            raise GroupError(said["error"])
        return said["answer"]

    def _end_agent(self) -> None:
        agent, self._agent = self._agent, None
        if agent is None:
            return
        agent.kill()
        _status_of(agent)
        for pipe in (agent.stdin, agent.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # what was not sent is not needed


def _status_of(agent: "subprocess.Popen[bytes]") -> str:
    """Exit status of an agent that has ended or was killed, which the kernel may still be about."""
    try:
        return str(agent.wait(_END_WAIT_S))
    except subprocess.TimeoutExpired:
        return f"unknown after {_END_WAIT_S:g} s"
