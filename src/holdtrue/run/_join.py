"""How this process belongs to a job: alone, started by holdtrue, by torchrun or by srun, or placed by a test."""

import os
import socket
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Dictionary
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from holdtrue.data import Source
from holdtrue.elastic import Agent, ControllerAgent
from holdtrue.errors import UsageError, WaitTimeoutError
from holdtrue.mapping import Mapping, even_mapping, parse_mapping
from holdtrue.plan import Plan
from holdtrue.reduce import AloneGroup, GlooGroup, Group, NcclGroup
from holdtrue.wire import WorkerEnvironment

from ._elastic import ElasticGroup, Former
from ._environment import name_device, name_model
from ._limits import Limits
from ._meeting import Meeting
from ._settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """This worker's place in the group."""

    rank: int = 0
    world_size: int = 1
    device: str | None = None
    """The device the launcher chose; None leaves it to the settings."""
    mapping: str | None = None
    """Text of the mapping; None for the even one."""
    generation: int = 0
    worker: WorkerEnvironment | None = None
    """What the launcher said, if it started this process."""
    connect: Callable[[torch.device, Settings], Group] | None = None
    """Makes the group; None for a worker alone."""
    order: Any = None  # Any: an order function, for the tests' negative control
    agent: Agent | None = None
    """The line to an elastic membership; rank, world size and mapping then come from its views."""
    meet: Callable[[torch.device, Settings], Former] | None = None
    """Gives what forms the groups of views, where there is an agent."""
    in_process: bool = False
    """Whether other workers live in this process, as threads."""
    adapt_source: Callable[[Any, Source], Source] | None = None  # Any: the run's core
    """Sees the run and its data before the first step, and may change the data: for `holdtrue profile`."""

    def mapping_of(self, plan: Plan) -> Mapping:
        """The mapping in force.

        Raises:
            MappingError, UsageError: the text is no mapping of the plan, or of another number of workers.
        """
        if self.mapping is None:
            return even_mapping(plan.virtual_nodes, self.world_size)
        mapping = parse_mapping(self.mapping, plan.virtual_nodes)
        if mapping.world_size != self.world_size:
            raise UsageError(
                f"the mapping {self.mapping!r} is for {mapping.world_size} worker(s) and there are {self.world_size}; each "
                f"worker has one part of it. Pass --workers {mapping.world_size}, or another mapping."
            )
        return mapping


_placed: ContextVar[Membership | None] = ContextVar("placed", default=None)


@contextmanager
def joined_as(membership: Membership) -> Iterator[None]:
    """Make `holdtrue.init` in this context join with `membership`: for tests and embedders."""
    token = _placed.set(membership)
    try:
        yield
    finally:
        _placed.reset(token)


def is_placed() -> bool:
    """Whether this context has a place given by `joined_as`."""
    return _placed.get() is not None


def find_membership(env: Dictionary[str, str] | None = None) -> Membership:
    """This process's place, from the context or the environment.

    Raises:
        UsageError: the environment is half set.
    """
    if (placed := _placed.get()) is not None:
        return placed
    env = os.environ if env is None else env
    worker = WorkerEnvironment.from_env(env)
    if worker is not None and worker.rank is not None and worker.world_size is not None:
        return Membership(
            rank=worker.rank,
            world_size=worker.world_size,
            device=worker.device,
            mapping=worker.mapping,
            generation=worker.generation,
            worker=worker,
            connect=(lambda device, settings: _connect_launched(worker, device, settings))
            if worker.world_size > 1
            else None,
        )
    if worker is not None:
        return _elastic_membership(worker)
    if "RANK" in env and "WORLD_SIZE" in env:
        rank, world_size = int(env["RANK"]), int(env["WORLD_SIZE"])
        local = int(env.get("LOCAL_RANK", rank))
    elif int(env.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in env:
        rank, world_size, local = (
            int(env["SLURM_PROCID"]),
            int(env["SLURM_NTASKS"]),
            int(env.get("SLURM_LOCALID", "0")),
        )
    else:
        return Membership(mapping=env.get("HOLDTRUE_MAPPING"))
    if world_size == 1:
        return Membership(mapping=env.get("HOLDTRUE_MAPPING"))
    address = _rendezvous(env)
    return Membership(
        rank=rank,
        world_size=world_size,
        device=f"cuda:{local % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu",
        mapping=env.get("HOLDTRUE_MAPPING"),
        connect=lambda device, settings: _connect_rendezvous(address, rank, world_size, device, settings),
    )


def _elastic_membership(worker: WorkerEnvironment) -> Membership:
    """The place of a worker whose group changes: its agent connects here."""
    assert worker.controller_url is not None
    assert worker.token_file is not None
    try:
        token = Path(worker.token_file).read_text().strip()
    except OSError as error:
        raise UsageError(
            f"the token file {worker.token_file} cannot be read ({error.strerror}); a worker needs its token to join the job. "
            f"Start workers with `holdtrue run` or `holdtrue worker --join`."
        ) from error
    agent = ControllerAgent(
        url=worker.controller_url,
        token=token,
        worker=worker.worker,
        host=worker.store_host,
        port=worker.store_port,
        device=worker.device,
    )

    def meet(device: torch.device, settings: Settings) -> Former:
        return Meeting(
            agent,
            host=worker.store_host,
            port=worker.store_port,
            store_fd=worker.store_fd,
            device=device,
            timeout_s=worker.group_timeout_s or settings.timeout_s,
        )

    return Membership(rank=-1, device=worker.device, worker=worker, agent=agent, meet=meet)


def choose_device(membership: Membership, settings: Settings) -> torch.device:
    """The device that this worker drives.

    Raises:
        UsageError: cuda is asked for and there is none.
    """
    named = membership.device if membership.device not in (None, "auto") else None
    choice = named or ("cuda" if settings.device == "auto" and torch.cuda.is_available() else settings.device)
    if choice in ("auto", "cpu"):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(
            f"device is {choice!r} and torch finds no CUDA device here; it needs one that is visible, and a torch built for it. "
            f"Pass --device cpu, or look at CUDA_VISIBLE_DEVICES."
        )
    device = torch.device(choice if ":" in choice else "cuda:0")
    torch.cuda.set_device(device)
    return device


def _connect_launched(worker: WorkerEnvironment, device: torch.device, settings: Settings) -> Group:
    """The group of workers that `holdtrue run` started; rank 0 hosts the store on the launcher's socket."""
    assert worker.rank is not None, "a fixed group has ranks"
    assert worker.world_size is not None, "a fixed group has a size"
    store = _open_store(
        worker.store_host,
        worker.store_port,
        worker.world_size,
        is_host=worker.rank == 0,
        fd=worker.store_fd,
        settings=settings,
    )
    return _group_on(store, worker.rank, worker.world_size, worker.generation, device, settings)


def _rendezvous(env: Dictionary[str, str]) -> tuple[str, int, bool]:
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in env]
    if missing:
        raise UsageError(
            f"RANK or SLURM_PROCID is set and {' and '.join(missing)} is not; workers meet at that address. Start the script "
            f"with torchrun or `holdtrue run`; under srun, export MASTER_ADDR (the first node) and MASTER_PORT (a free port)."
        )
    agent_hosts = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return env["MASTER_ADDR"], int(env["MASTER_PORT"]), agent_hosts


def _connect_rendezvous(
    address: tuple[str, int, bool], rank: int, world_size: int, device: torch.device, settings: Settings
) -> Group:
    host, port, agent_hosts = address
    is_host = rank == 0 and not agent_hosts
    fd = _listen(host, port) if is_host else None
    store = _open_store(host, port, world_size, is_host=is_host, fd=fd, settings=settings)
    return _group_on(store, rank, world_size, 0, device, settings, host)


def _listen(host: str, port: int) -> int:
    """A socket bound to one address: torch's own would listen on all of them."""
    listener = socket.create_server((host, port), backlog=128)
    return listener.detach()


def _open_store(
    host: str, port: int, world_size: int, *, is_host: bool, fd: int | None, settings: Settings
) -> Any:
    try:
        return torch.distributed.TCPStore(
            host,
            port,
            world_size,
            is_master=is_host,
            timeout=timedelta(seconds=settings.timeout_s),
            wait_for_workers=False,
            master_listen_fd=fd,
        )
    except (RuntimeError, torch.distributed.DistNetworkError) as error:
        raise WaitTimeoutError(
            f"no store answered at {host}:{port} within {settings.timeout_s:.0f} s; worker 0 opens it. "
            f"See worker 0's log for why it did not."
        ) from error


def _group_on(
    store: Any,
    rank: int,
    world_size: int,
    generation: int,
    device: torch.device,
    settings: Settings,
    host: str = "127.0.0.1",
) -> Group:
    """The adapter for the devices of this group: nccl if every worker has a GPU of its own, else gloo."""
    store.set(f"device/{generation}/{rank}", name_device(device, os.environ))
    names = [store.get(f"device/{generation}/{r}").decode() for r in range(world_size)]
    name = f"generation-{generation}"
    if all("cuda" in n for n in names) and len(set(names)) == world_size:
        return NcclGroup(
            store, rank=rank, world_size=world_size, device=device, timeout_s=settings.timeout_s, name=name
        )
    hostname = "127.0.0.1" if host in ("127.0.0.1", "localhost", "::1") else _own_address(host)
    return GlooGroup(
        store, rank=rank, world_size=world_size, timeout_s=settings.timeout_s, name=name, hostname=hostname
    )


class LaunchedStore:
    """The store of workers that the launcher started, kept open over several groups: for `holdtrue profile`."""

    def __init__(self, worker: WorkerEnvironment) -> None:
        assert worker.rank is not None, "a fixed group has ranks"
        assert worker.world_size is not None, "a fixed group has ranks"
        self._worker, self._rank, self._world_size = worker, worker.rank, worker.world_size
        self._store: Any = None

    def _open(self) -> Any:
        if self._store is None:
            worker = self._worker
            self._store = _open_store(
                worker.store_host,
                worker.store_port,
                self._world_size,
                is_host=self._rank == 0,
                fd=worker.store_fd,
                settings=Settings(),
            )
        return self._store

    def group(self, generation: int, device: torch.device, settings: Settings) -> Group:
        """The group of one generation; blocks until all its workers have joined, at most the time-out."""
        return _group_on(self._open(), self._rank, self._world_size, generation, device, settings)

    def say(self, key: str, text: str) -> None:
        """Leave word for the other workers."""
        self._open().set(key, text)

    def has_said(self, key: str) -> bool:
        """Whether a worker has left such word; does not wait for it."""
        return bool(self._open().check([key]))

    def hear(self, key: str) -> str:
        """What a worker said; blocks until it has, at most the time-out."""
        return str(self._open().get(key).decode())


def _own_address(host: str) -> str:
    """This machine's address on the way to `host`; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return str(probe.getsockname()[0])


def _limits(settings: Settings, plan: Plan, device: torch.device) -> Limits | None:
    """Limits of memory, if the job has costs."""
    if not settings.costs:
        return None
    return Limits(
        settings.costs, plan, own_model=name_model(device), own_place=name_device(device, os.environ)
    )


def connect(membership: Membership, plan: Plan, device: torch.device, settings: Settings) -> Group:
    """The group of this worker; where the membership is fixed, blocks until all workers have joined, at most the
    time-out. An elastic group has no members yet."""
    agent, worker = membership.agent, membership.worker
    if agent is not None and membership.meet is not None:
        former = membership.meet(device, settings)  # its store listens before anybody hears of it
        if isinstance(agent, ControllerAgent) and worker is not None:
            agent.start(timeout_s=settings.timeout_s)
        return ElasticGroup(
            agent,
            former,
            virtual_nodes=plan.virtual_nodes,
            device=device,
            timeout_s=(worker.group_timeout_s if worker else None) or settings.timeout_s,
            limits=_limits(settings, plan, device),
        )
    return membership.connect(device, settings) if membership.connect else AloneGroup(device)
