"""Opening the engine that a cluster was started with, or had."""

import os

from holdtrue.cluster import Cluster, parse_cluster, rebuild_schedule
from holdtrue.errors import UsageError

from ._engine import ClusterEngine
from ._engine_choice import EngineChoice, engine_from_text
from ._launchers import LauncherEngine
from ._records import Place
from ._store import Store
from .on_ray import RayChoice, check_ray, open_ray

_FACT = "engine"


def open_engine(
    place: Place, store: Store, cluster: Cluster | None, choice: EngineChoice | None
) -> tuple[ClusterEngine, Cluster | None]:
    """The engine, and the devices of the cluster as far as they are named or the engine says them.

    Args:
        place: The cluster's folders.
        store: Where the choice is kept.
        cluster: Devices that were named.
        choice: The engine that was named; None for the one that it had.

    Raises:
        UsageError: jobs run on another engine, or it cannot be used.
    """
    text = store.fact(_FACT)
    had = engine_from_text(text) if text is not None else EngineChoice()
    wish = choice if choice is not None else had
    _check_change(store, had, wish)
    if wish.ray is None:
        store.set_fact(_FACT, wish.to_text())
        return LauncherEngine(place), cluster
    engine, cluster = _open_ray(place, store, cluster, wish.ray)
    store.set_fact(_FACT, wish.to_text())
    return engine, cluster


def _open_ray(
    place: Place, store: Store, cluster: Cluster | None, choice: RayChoice
) -> tuple[ClusterEngine, Cluster | None]:
    check_ray()
    records = store.log()
    known = cluster or (rebuild_schedule(records).cluster if records else None)
    wanted = known.total if known is not None else 1
    hosts = open_ray(place.folder, choice, wanted if known is not None else len(os.sched_getaffinity(0)))
    has = hosts.devices().get("cpu", 0)
    if has < wanted:
        hosts.close(ends_all=not any(record.state == "running" for record in store.jobs()))
        raise UsageError(
            f"the cluster is to have cpu:{wanted}, and the Ray cluster has {has} CPUs. Write --devices cpu:{max(1, has)}, "
            f"or give Ray more (`ray start --num-cpus`)."
        )
    engine = LauncherEngine(place, hosts, choice.listen or None)
    return engine, cluster if records or cluster is not None else parse_cluster(f"cpu:{has}", "")


def _check_change(store: Store, had: EngineChoice, wish: EngineChoice) -> None:
    """Refuse another engine under jobs that run: they are on the old one."""
    running = [record.request.name for record in store.jobs() if record.state == "running"]
    if running and wish != had:
        at = f" at {had.ray.address}" if had.ray is not None and had.ray.address else ""
        raise UsageError(
            f"jobs run on the engine {had.name}{at} ({', '.join(running[:5])}), and another one is named now. Start the "
            f"cluster without --engine and --address; or end the jobs with `holdtrue cluster stop --jobs`, and then change it."
        )
