"""Devices lent by a Ray cluster: each host of a job is a Ray actor, placed by Ray.

    scheduler  ->  RayHosts  -> pipe ->  _agent (speaks with Ray)  ->  Ray  ->  _actor: one host, one device

Ray's own code runs in a process of its own, `_agent`: it ends its process when its cluster is gone, which must not be
the scheduler's. A cluster of this machine, where none is named, is kept by `_head` as long as somebody needs it.
"""

from ._choice import RayChoice, check_ray
from ._open import open_ray

__all__ = ["RayChoice", "check_ray", "open_ray"]
