"""What runs the jobs of a cluster, as a user names it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, final

from holdtrue.cluster import Cluster, parse_cluster
from holdtrue.errors import UsageError
from holdtrue.launch import count_cuda_devices, torch_has_cuda

from .on_ray import RayChoice, check_ray

ENGINES: tuple[str, ...] = ("embedded", "ray")
_SLOTS_PER_CORE = 4


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """An engine and what it is told."""

    name: Literal["embedded", "ray"] = "embedded"
    ray: RayChoice | None = None
    """With the engine ray."""

    def to_text(self) -> str:
        """As JSON, for `engine_from_text`."""
        return json.dumps(asdict(self))


def engine_from_text(text: str) -> EngineChoice:
    """The inverse of `EngineChoice.to_text`.

    >>> engine_from_text(EngineChoice(name="ray", ray=RayChoice(address="h:1")).to_text()).ray.address
    'h:1'
    """
    values = json.loads(text)
    return EngineChoice(name=values["name"], ray=RayChoice(**values["ray"]) if values["ray"] else None)


def choose_engine(name: str, *, address: str, listen: str) -> EngineChoice | None:
    """The engine that the command line names; None if it names none.

    Raises:
        UsageError: there is no such engine, Ray is not installed, or an option belongs to another engine.
    """
    if name and name not in ENGINES:
        raise UsageError(
            f"--engine is {name!r}; the engines are {' and '.join(ENGINES)}. Give one of them, or leave it out."
        )
    if (address or listen) and name != "ray":
        given = "--address" if address else "--listen"
        raise UsageError(
            f"{given} is given, and --engine ray is not; it is where a Ray cluster, or its jobs, are found. Give both."
        )
    if name == "ray":
        check_ray()
        return EngineChoice(name="ray", ray=RayChoice(address=address, listen=listen))
    return EngineChoice() if name else None


KINDS: tuple[str, ...] = ("cpu", "cuda")
"""Devices that a live cluster may have."""


def check_devices(
    text: str, queues: str, cores: int, engine: EngineChoice | None = None, cuda: int = 0
) -> None:
    """Refuse devices that the engine does not have; those of a Ray cluster elsewhere are asked for later.

    Args:
        text: Devices, such as `cpu:2`.
        queues: Queues with their guarantees.
        cores: Of this machine.
        engine: What runs the jobs.
        cuda: CUDA devices of this machine.

    Raises:
        UsageError: another kind, several kinds, far more slots than cores, or more CUDA devices than there are.
    """
    cluster = parse_cluster(text, queues)
    ray = engine.ray if engine is not None else None
    if len(cluster.kinds) > 1 or cluster.kinds[0] not in KINDS:
        who, where = ("ray", "a Ray cluster") if ray is not None else ("embedded", "this machine")
        raise UsageError(
            f"--devices is {text}; the {who} engine runs jobs on CPU slots of {where}, or on its CUDA devices, and a "
            f"cluster has devices of one kind. Write --devices cpu:{cores}, or --devices cuda:{max(1, cuda)}."
        )
    if ray is not None and ray.address:
        return
    if cluster.kinds == ("cuda",) and cluster.total > cuda:
        raise UsageError(
            f"--devices is {text}, and this machine shows {cuda} CUDA device(s) to this torch; each is driven by one worker "
            f"at a time. See `nvidia-smi` and CUDA_VISIBLE_DEVICES, or write --devices cpu:{cores}."
        )
    if cluster.kinds == ("cpu",) and cluster.total > _SLOTS_PER_CORE * cores:
        raise UsageError(
            f"--devices is {text}, and this machine has {cores} cores; jobs can have at most {_SLOTS_PER_CORE} slots a "
            f"core. Write --devices cpu:{cores}."
        )


def cuda_here(env: Mapping[str, str]) -> int:
    """CUDA devices of this machine that jobs can use."""
    return count_cuda_devices(env) if torch_has_cuda() else 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lent:
    """The devices of a cluster, as whoever starts its jobs needs to know them."""

    kind: str = "cpu"
    memory_bytes: int = 0
    """Memory that goes with one CPU slot, of which a job of a part has its part; 0 leaves it to the machine of the host."""
    names: tuple[str, ...] = ()
    """CUDA devices of this machine, which workers lease; empty where somebody else gives devices to processes."""


def describe_lent(
    cluster: Cluster | None, choice: EngineChoice, *, memory_bytes: int, visible: tuple[str, ...]
) -> Lent:
    """What is lent to jobs. Pure.

    Args:
        cluster: Its devices; None if nothing is known of them.
        choice: The engine.
        memory_bytes: Of one device: what was named, or this machine's part; 0 for neither.
        visible: Names of this machine's CUDA devices.

    >>> describe_lent(parse_cluster("cuda:2"), EngineChoice(), memory_bytes=0, visible=("0", "1", "2")).names
    ('0', '1')
    """
    kind = cluster.kinds[0] if cluster is not None else "cpu"
    names = visible[: cluster.total] if cluster is not None and kind == "cuda" and choice.ray is None else ()
    return Lent(kind=kind, memory_bytes=memory_bytes if kind == "cpu" else 0, names=names)


def choose_names(
    total: int, visible: tuple[str, ...], before: tuple[str, ...], *, keeps: bool
) -> tuple[str, ...]:
    """Which CUDA devices a cluster of this machine has: those that it had, whatever another shell shows. Pure.

    Args:
        total: Devices of the cluster.
        visible: Names of the devices that are seen now.
        before: Those that it had; empty for a new one.
        keeps: Whether it keeps them: jobs run on them, or no devices are named now.

    Raises:
        UsageError: fewer are seen than it has.

    >>> choose_names(2, ("5", "4", "6"), ("4", "5"), keeps=True), choose_names(2, ("5", "4", "6"), (), keeps=True)
    (('4', '5'), ('5', '4'))
    """
    if len(visible) < total:
        raise UsageError(
            f"the cluster has cuda:{total}, and this shell shows {len(visible)} CUDA device(s); each is driven by one worker "
            f"at a time. See `nvidia-smi` and CUDA_VISIBLE_DEVICES."
        )
    return before if keeps and len(before) == total else visible[:total]
