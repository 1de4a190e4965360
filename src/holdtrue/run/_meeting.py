"""Where the workers of a view meet: each worker's own store, and the groups that are formed on the store of rank 0."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, final

import torch
import torch.distributed as dist

from holdtrue.elastic import Agent, View
from holdtrue.errors import GroupError, WaitTimeoutError, WorkerLostError
from holdtrue.reduce import AloneGroup, GlooGroup, Group, NcclGroup

from ._environment import name_device

T = TypeVar("T")

LOOK_S = 0.2
"""How long one wait lasts before the worker looks whether the view still holds, in seconds."""

REACH_S = 5.0
"""How long another worker's store may take to answer, in seconds."""


@final
class Meeting:
    """One worker's part in forming groups.

    Args:
        agent: The line to the membership; a newer view than the one being formed makes that one void.
        host: Address at which this worker's store listens; its groups use the same network.
        port: Port of the store.
        store_fd: Listening socket that whoever started this process has bound to it.
        device: This worker's device.
        timeout_s: Bound of every wait for another worker, in seconds.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        host: str,
        port: int,
        store_fd: int | None,
        device: torch.device,
        timeout_s: float,
    ) -> None:
        self._agent, self._host, self._device, self._timeout_s = agent, host, device, timeout_s
        self._own: Any = dist.TCPStore(
            host,
            port,
            None,
            is_master=True,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            master_listen_fd=store_fd,
        )

    def form(self, view: View, rank: int) -> Group:
        """The group of a view.

        Blocks:
            Until every member has come, at most the time-out.

        Raises:
            WorkerLostError: a member died, or gave the view up; a newer view has come or will.
            WaitTimeoutError: not every member came in time.
        """
        if len(view.members) == 1:
            return AloneGroup(self._device)
        at = f"the store of worker {view.members[0].worker}, where generation {view.generation} meets"
        remote = self._within(lambda: self._store_of(view, rank), view, at, self._timeout_s)
        store = dist.PrefixStore(f"generation-{view.generation}", remote)
        everyone = f"all workers to come to generation {view.generation}"
        self._within(
            lambda: self._wait_for_all(store, view, rank, everyone), view, everyone, self._timeout_s + REACH_S
        )
        connections = f"the connections of generation {view.generation}"
        return self._within(lambda: self._group_on(store, view, rank), view, connections, self._timeout_s)

    def give_up(self, view: View) -> None:
        """Tell those who wait in the forming of a view that this worker will not come.

        Blocks:
            At most `LOOK_S`: whoever holds the store may be stopped, and then learns it otherwise.
        """
        rank = view.rank_of(self._agent.worker)
        if rank is None or len(view.members) == 1:
            return

        def leave_word() -> None:
            with contextlib.suppress(GroupError, RuntimeError):
                store = self._store_of(view, rank)
                dist.PrefixStore(f"generation-{view.generation}", store).set("given-up", "1")

        thread = threading.Thread(target=leave_word, name="holdtrue-give-up", daemon=True)
        thread.start()
        thread.join(LOOK_S)

    def _store_of(self, view: View, rank: int) -> Any:
        """The store of the view's first worker; torch's connection waits without a bound for one that is stopped."""
        if rank == 0:
            return self._own
        first = view.members[0]
        try:
            return dist.TCPStore(
                first.host,
                first.port,
                None,
                is_master=False,
                timeout=timedelta(seconds=REACH_S),
                wait_for_workers=False,
            )
        except (RuntimeError, dist.DistNetworkError) as error:
            raise WorkerLostError(
                f"the store of worker {first.worker} at {first.host}:{first.port} could not be reached within {REACH_S:.0f} s; "
                f"generation {view.generation} meets there."
            ) from error

    def _wait_for_all(self, store: Any, view: View, rank: int, what: str) -> None:
        keys = [f"here/{m.worker}" for m in view.members]
        until_s = time.monotonic() + self._timeout_s
        try:
            store.set(keys[rank], name_device(self._device, os.environ))
            while True:
                self._refuse_void(store, view)
                with contextlib.suppress(dist.DistStoreError):  # a wait that ran out
                    store.wait(keys, timedelta(seconds=LOOK_S))
                    return
                if time.monotonic() > until_s:
                    late = [
                        m.worker for m, key in zip(view.members, keys, strict=True) if not store.check([key])
                    ]
                    raise WaitTimeoutError(
                        f"waited {self._timeout_s:.0f} s for {what}; workers {late} did not."
                    )
        except (dist.DistNetworkError, RuntimeError) as error:
            raise WorkerLostError(
                f"worker {view.members[0].worker}, whose store generation {view.generation} meets at, is gone."
            ) from error

    def _refuse_void(self, store: Any | None, view: View) -> None:
        if self._agent.newest_forced() > view.generation:
            raise WorkerLostError(f"generation {view.generation} is void: a newer one has come.")
        if store is not None and store.check(["given-up"]):
            raise WorkerLostError(f"generation {view.generation} is void: a member gave it up.")

    def _group_on(self, store: Any, view: View, rank: int) -> Group:
        """The adapter for the devices of this view: nccl if every worker has a GPU of its own, else gloo."""
        names = [store.get(f"here/{m.worker}").decode() for m in view.members]
        world_size = len(names)
        if all("cuda" in name for name in names) and len(set(names)) == world_size:
            return NcclGroup(
                store,
                rank=rank,
                world_size=world_size,
                device=self._device,
                timeout_s=self._timeout_s,
                name="group",
            )
        return GlooGroup(
            store,
            rank=rank,
            world_size=world_size,
            timeout_s=self._timeout_s,
            name="group",
            hostname=self._host,
        )

    def _within(self, act: Callable[[], T], view: View, what: str, limit_s: float) -> T:
        """What `act` gives; left alone in its thread if it takes too long or the view becomes void.

        Nothing that speaks with another worker's store or makes connections can be interrupted: a worker that is
        stopped (SIGSTOP) accepts connections and never answers.
        """
        found: list[T] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                found.append(act())
            except (RuntimeError, GroupError) as error:
                errors.append(error)

        thread = threading.Thread(target=run, name="holdtrue-form", daemon=True)
        thread.start()
        until_s = time.monotonic() + limit_s
        while thread.is_alive():
            thread.join(LOOK_S)
            if thread.is_alive():
                self._refuse_void(None, view)
                if time.monotonic() > until_s:
                    raise WaitTimeoutError(f"waited {limit_s:.0f} s for {what}.")
        if errors and isinstance(errors[0], GroupError):
            raise errors[0]
        if errors:
            raise WorkerLostError(f"{what} failed: {errors[0]}") from errors[0]
        return found[0]
