"""Opening the engine that a cluster was started with, or had."""

import json
import os

from holdtrue.cluster import Cluster, parse_cluster, rebuild_schedule
from holdtrue.errors import UsageError
from holdtrue.launch import machine_memory, visible_devices

from ._engine import ClusterEngine
from ._engine_choice import EngineChoice, Lent, choose_names, cuda_here, describe_lent, engine_from_text
from ._launchers import LauncherEngine
from ._records import Place
from ._store import Store
from .on_ray import RayChoice, check_ray, open_ray

_FACT, _MEMORY, _NAMES = "engine", "device_memory", "device_names"


def open_engine(
    place: Place,
    store: Store,
    cluster: Cluster | None,
    choice: EngineChoice | None,
    memory_bytes: int | None = None,
) -> tuple[ClusterEngine, Cluster | None]:
    """The engine, and the devices of the cluster as far as they are named or the engine says them.

    Args:
        place: The cluster's folders.
        store: Where the choice is kept.
        cluster: Devices that were named.
        choice: The engine that was named; None for the one that it had.
        memory_bytes: Memory of one device, as it was named; None for what it had.

    Raises:
        UsageError: jobs run on another engine, or it cannot be used.
    """
    text = store.fact(_FACT)
    had = engine_from_text(text) if text is not None else EngineChoice()
    wish = choice if choice is not None else had
    _check_change(store, had, wish)
    records = store.log()
    known = cluster or (rebuild_schedule(records).cluster if records else None)
    memory = memory_bytes if memory_bytes is not None else int(store.fact(_MEMORY) or 0)
    is_cuda = known is not None and known.kinds[0] == "cuda"
    if memory_bytes is not None and is_cuda:
        raise UsageError(
            f"--memory is {memory_bytes} bytes, and the cluster has CUDA devices; it is the memory of a CPU slot, and a GPU's "
            f"is its own. Leave it out."
        )
    visible = visible_devices(os.environ, cuda_here(os.environ))
    if known is not None and is_cuda and wish.ray is None:
        keeps = cluster is None or any(record.state == "running" for record in store.jobs())
        before = tuple(json.loads(store.fact(_NAMES) or "[]"))
        visible = choose_names(known.total, visible, before, keeps=keeps)
        store.set_fact(_NAMES, json.dumps(visible))
    own_part = machine_memory() // known.total if known is not None and wish.ray is None else 0
    lent = describe_lent(
        known,
        wish,
        memory_bytes=memory or own_part,
        visible=visible,
    )
    engine: ClusterEngine = LauncherEngine(place, lent=lent)
    if wish.ray is not None:
        engine, known = _open_ray(place, store, known, wish.ray, lent)
    store.set_fact(_FACT, wish.to_text())
    store.set_fact(_MEMORY, str(memory))
    return engine, cluster if records or cluster is not None else known


def _open_ray(
    place: Place, store: Store, known: Cluster | None, choice: RayChoice, lent: Lent
) -> tuple[ClusterEngine, Cluster]:
    check_ray()
    wanted = known.total if known is not None else 1
    is_cuda = lent.kind == "cuda"
    cpus = len(os.sched_getaffinity(0)) if known is None or is_cuda else wanted
    hosts = open_ray(place.folder, choice, cpus, wanted if is_cuda else 0)
    has = hosts.devices().get(lent.kind, 0)
    if has < wanted:
        hosts.close(ends_all=not any(record.state == "running" for record in store.jobs()))
        what, option = ("GPUs", "--num-gpus") if is_cuda else ("CPUs", "--num-cpus")
        raise UsageError(
            f"the cluster is to have {lent.kind}:{wanted}, and the Ray cluster has {has} {what}. Write --devices "
            f"{lent.kind}:{max(1, has)}, or give Ray more (`ray start {option}`)."
        )
    engine = LauncherEngine(place, hosts, choice.listen or None, lent)
    return engine, known or parse_cluster(f"cpu:{has}", "")


def _check_change(store: Store, had: EngineChoice, wish: EngineChoice) -> None:
    """Refuse another engine under jobs that run: they are on the old one."""
    running = [record.request.name for record in store.jobs() if record.state == "running"]
    if running and wish != had:
        at = f" at {had.ray.address}" if had.ray is not None and had.ray.address else ""
        raise UsageError(
            f"jobs run on the engine {had.name}{at} ({', '.join(running[:5])}), and another one is named now. Start the "
            f"cluster without --engine and --address; or end the jobs with `holdtrue cluster stop --jobs`, and then change it."
        )
