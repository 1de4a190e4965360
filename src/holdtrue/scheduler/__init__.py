"""The live scheduler of a shared cluster: jobs are submitted, and grow and shrink while they run.

in:  job files (a script, a plan, bounds, a weight), devices, a policy
out: `holdtrue run` processes of the right size, and a log that replays to the same decisions

    start_cluster(folder, devices="cpu:2", ...)    a process of its own, behind a token on loopback
    ClusterClient(folder).submit([read_job_file(path)])

What decides is `holdtrue.cluster`, pure, which the simulator uses too. Here it is made real: orders (what to do next, pure),
evidence (what became of an attempt, pure), a store that is never half-written, an engine that starts processes, and
where somebody else lends the devices (Ray), hosts that are asked for.
"""

from ._client import ClusterClient, cluster_folder, start_cluster
from ._engine_choice import EngineChoice, check_devices, choose_engine, cuda_here
from ._request import JobRequest, read_job_file
from ._serve import serve_cluster

__all__ = [
    "ClusterClient",
    "EngineChoice",
    "JobRequest",
    "check_devices",
    "choose_engine",
    "cluster_folder",
    "cuda_here",
    "read_job_file",
    "serve_cluster",
    "start_cluster",
]
