"""Living worker processes for tests over gloo: one pool per test session, cases sent through pipes.

    with Pool(size=4) as pool:
        pool.each(fn, world_size=3)                       # fn(seat) in three processes -> results by rank
        pool.run(main, mapping="0-3/4-7")                 # as holdtrue.testing.run_in_process, over gloo

A fresh process costs two seconds of importing torch; a case costs milliseconds. Every wait is bounded:
a member that dies or hangs ends the case with a sentence, and the next case gets new members.
"""

import functools
import os
import pickle
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, TypeVar

T = TypeVar("T")
Order = Callable[[Any], Any]  # Any: Mapping -> Tree, without importing torch at the top

GROUP_TIMEOUT_S = 30.0
CASE_TIMEOUT_S = 120.0


class PoolError(RuntimeError):
    """A case that did not come to its end on every member; says on which, and why."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A member's place in one case."""

    rank: int
    world_size: int
    store: Any  # Any: a TCPStore
    name: str
    opened: list[Any]  # Any: groups to close after the case

    def group(
        self,
    ) -> Any:  # Any: a GlooGroup; one group for each call, so the number of calls is the same on all
        """A gloo group of the members of this case."""
        from holdtrue.reduce import GlooGroup

        group = GlooGroup(
            self.store,
            rank=self.rank,
            world_size=self.world_size,
            timeout_s=GROUP_TIMEOUT_S,
            name=f"{self.name}.{len(self.opened)}",
        )
        self.opened.append(group)
        return group

    def meet(self, where: str) -> None:
        """Return when all members have come to `where`, through the store alone; bounded by the store's time-out."""
        self.store.set(f"{self.name}/{where}/{self.rank}", b"")
        self.store.wait([f"{self.name}/{where}/{r}" for r in range(self.world_size)])


def run_here(seat: Seat, main: Callable[[], T], mapping: str | None, order: Order | None) -> T:
    """One member's part of `Pool.run`."""
    from holdtrue.reduce import AloneGroup
    from holdtrue.run import Membership, joined_as

    membership = Membership(
        rank=seat.rank,
        world_size=seat.world_size,
        device="cpu",
        mapping=mapping,
        order=order,
        in_process=True,  # the pool's process outlives the run: no exit hooks, no signal handlers
        connect=lambda device, settings: seat.group() if seat.world_size > 1 else AloneGroup(device),
    )
    with joined_as(membership):
        return main()


def serve(connection: Connection, port: int) -> None:
    """A member's life: cases until the parent is gone."""
    import torch

    torch.set_num_threads(1)
    store = torch.distributed.TCPStore(
        "127.0.0.1", port, is_master=False, timeout=timedelta(seconds=GROUP_TIMEOUT_S)
    )
    opened: list[Any] = []
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        for group in opened:  # only now: closing at once could cut off what a slower member still reads
            group.close()
        opened = []
        connection.send_bytes(_reply_to(message, store, opened))


def _reply_to(message: bytes, store: Any, opened: list[Any]) -> bytes:  # Any: see Seat
    try:
        fn, rank, world_size, name = pickle.loads(message)
        seat = Seat(rank, world_size, store, name, opened)
        reply = pickle.dumps((True, fn(seat)))
    except BaseException:  # noqa: BLE001 - the edge of the member: told to the parent
        reply = pickle.dumps((False, traceback.format_exc()))
    else:
        return reply
    for group in opened:  # outside the except block: a traceback would keep the sockets open
        group.close()
    opened.clear()
    return reply


@dataclass(slots=True)
class _Member:
    process: subprocess.Popen[bytes]
    connection: Connection


class Pool:
    """Members are started at the first case, and again after a case that broke them."""

    def __init__(self, size: int = 4) -> None:
        self.size = size
        self._members: list[_Member] = []
        self._store: Any = None  # Any: a TCPStore
        self._cases = 0

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all members; none outlives this call."""
        for member in self._members:
            member.connection.close()
        for member in self._members:
            member.process.kill()
            member.process.wait(timeout=10)
        self._members = []
        self._store = None

    def pids(self) -> list[int]:
        """Process ids of the members, by rank; starts them if they are not."""
        self._start()
        return [m.process.pid for m in self._members]

    def _start(self) -> None:
        if self._members:
            return
        import torch

        listener = socket.create_server(("127.0.0.1", 0))  # ours: torch's own would listen on every interface
        port = listener.getsockname()[1]
        self._store = torch.distributed.TCPStore(
            "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        )
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        env["GLOO_SOCKET_IFNAME"] = (
            "lo"  # for what makes groups of torch's own, such as DistributedDataParallel
        )
        for _ in range(self.size):
            ours, theirs = Pipe()
            command = [sys.executable, __file__, str(theirs.fileno()), str(port)]
            process = subprocess.Popen(command, env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
            theirs.close()
            self._members.append(_Member(process, ours))

    def each(self, fn: Callable[[Seat], T], *, world_size: int, timeout_s: float = CASE_TIMEOUT_S) -> list[T]:
        """What `fn(seat)` returns in each of `world_size` processes, by rank.

        Args:
            fn: Picklable by reference: a function of a module, or a partial of one.
            world_size: Members that take part, at most the pool's size.
            timeout_s: Bound of the whole case, in seconds.

        Raises:
            PoolError: a member died, hung or raised.
        """
        assert 1 <= world_size <= self.size, f"{world_size} of {self.size} members"
        self._start()
        self._cases += 1
        members = self._members[:world_size]
        for rank, member in enumerate(members):
            try:
                member.connection.send_bytes(pickle.dumps((fn, rank, world_size, f"case-{self._cases}")))
            except OSError:
                self._give_up(rank, "was gone before the case")
        replies = self._collect(members, timeout_s)
        failed = {rank: text for rank, (is_good, text) in sorted(replies.items()) if not is_good}
        if failed:
            raise PoolError("\n".join(f"member {rank} raised:\n{text}" for rank, text in failed.items()))
        return [replies[rank][1] for rank in range(world_size)]

    def _collect(self, members: list[_Member], timeout_s: float) -> dict[int, tuple[bool, Any]]:
        """Replies by rank; Any: what fn returned, or the text of its traceback."""
        deadline = time.monotonic() + timeout_s
        replies: dict[int, tuple[bool, Any]] = {}
        while len(replies) < len(members):
            open_ = {m.connection: r for r, m in enumerate(members) if r not in replies}
            ready = wait(list(open_), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                self._give_up(min(open_.values()), f"had not answered after {timeout_s:.0f} s")
            for connection in ready:
                assert isinstance(connection, Connection)
                try:
                    replies[open_[connection]] = pickle.loads(connection.recv_bytes())
                except (EOFError, OSError):
                    self._give_up(open_[connection], "died in the case")
        return replies

    def _give_up(self, rank: int, why: str) -> None:
        process = self._members[rank].process
        if "answered" not in why:
            process.wait(timeout=10)
        code = process.poll()
        self.close()
        raise PoolError(
            f"member {rank} of the gloo pool {why} (case {self._cases}, exit status {code}); the next case gets new members."
        )

    def run(
        self,
        main: Callable[[], T],
        *,
        workers: int = 1,
        mapping: str | None = None,
        order: Order | None = None,
    ) -> list[T]:
        """What `main` returns on each worker, by rank: `holdtrue.testing.run_in_process` over gloo.

        Args:
            main: Calls `holdtrue.init` and trains; picklable by reference, or a partial of such.
            workers: Number of workers; taken from `mapping` if that is given.
            mapping: Text of a mapping; the even one otherwise.
            order: Another order of additions, for negative controls.

        Raises:
            PoolError: a member died, hung or raised.
        """
        world_size = len(mapping.split("/")) if mapping else workers
        part = functools.partial(run_here, main=main, mapping=mapping, order=order)
        return self.each(part, world_size=world_size)


if __name__ == "__main__":
    sys.modules["pool"] = sys.modules["__main__"]  # what the parent pickles is `pool.run_here`
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
