"""From a user's choice to hosts that can be asked for."""

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path

from holdtrue.errors import GroupError, UsageError
from holdtrue.service import listen

from ._choice import RayChoice, RayCluster
from ._head import local_cluster
from ._loopback import LOOPBACK
from ._ray_hosts import RayHosts

_REACH_WAIT_S = 5.0
_WAY_OUT = (
    "Give the HOST:PORT that `ray start --head` printed (this machine must be a node of it), or leave --address out for a "
    "cluster of this machine's own."
)


def open_ray(folder: Path, choice: RayChoice, cpus: int, gpus: int = 0) -> RayHosts:
    """Find the Ray cluster, or start one on this machine.

    Args:
        folder: Of the scheduler.
        choice: Which cluster.
        cpus: CPUs of one that is started.
        gpus: CUDA devices of one that is started.

    Raises:
        UsageError: jobs cannot listen where they are to, or it cannot be reached, or has machines that could not reach the
            jobs.

    Blocks:
        At most 165 s, of which Ray itself takes 3 to 5 on an idle machine.
    """
    if choice.listen:
        listen(choice.listen).close()
    find: Callable[[], RayCluster]
    if choice.address:
        find = lambda: _reach(choice.address)  # noqa: E731
    else:
        find = lambda: local_cluster(folder, cpus, gpus)  # noqa: E731
    where = f"{socket.gethostname()}:{folder.absolute()}"
    namespace = f"holdtrue-{hashlib.sha256(where.encode()).hexdigest()[:12]}"
    hosts = RayHosts(
        find,
        address=choice.address,
        namespace=namespace,
        log=folder / "ray.log",
        way_out=_WAY_OUT if choice.address else f"See {folder / 'ray.log'}, and start the cluster again.",
    )
    far = [address for address in hosts.addresses() if address != LOOPBACK]
    if len(far) > 1 and not choice.listen:
        hosts.close(ends_all=False)
        raise UsageError(
            f"the Ray cluster at {choice.address} has nodes at {', '.join(far)}, and jobs listen on this machine alone; "
            f"workers there could not join them. Give --listen ADDRESS, one of this machine in a private network."
        )
    return hosts


def _reach(address: str) -> RayCluster:
    """The cluster at an address at which something listens; Ray itself would wait a minute for it.

    Raises:
        GroupError: nothing does.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_WAIT_S).close()
    except OSError as error:
        raise GroupError(f"nothing answers there ({error.strerror or error})") from None
    return RayCluster(address=address)
