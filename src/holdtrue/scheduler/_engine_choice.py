"""What runs the jobs of a cluster, as a user names it."""

import json
from dataclasses import asdict, dataclass
from typing import Literal, final

from holdtrue.cluster import parse_cluster
from holdtrue.errors import UsageError

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


def check_devices(text: str, queues: str, cores: int, engine: EngineChoice | None = None) -> None:
    """Refuse devices that the engine does not have; those of a Ray cluster elsewhere are asked for later.

    Raises:
        UsageError: another kind than cpu, or far more slots than cores.
    """
    cluster = parse_cluster(text, queues)
    ray = engine.ray if engine is not None else None
    if cluster.kinds != ("cpu",):
        who, where = ("ray", "a Ray cluster") if ray is not None else ("embedded", "this machine")
        raise UsageError(
            f"--devices is {text}; the {who} engine runs jobs on CPU slots of {where}, and has no way yet to give "
            f"single GPUs to jobs. Write --devices cpu:{cores}."
        )
    if not (ray is not None and ray.address) and cluster.total > _SLOTS_PER_CORE * cores:
        raise UsageError(
            f"--devices is {text}, and this machine has {cores} cores; jobs can have at most {_SLOTS_PER_CORE} slots a "
            f"core. Write --devices cpu:{cores}."
        )
