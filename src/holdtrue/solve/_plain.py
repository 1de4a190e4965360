"""Costs of workers of whom nothing was measured beforehand: what a running job can tell by itself."""

import math

import numpy as np

from holdtrue.plan import Plan

from ._cost import Costs, KindCost


def plain_costs(plan: Plan, *, workers: int, pass_s: float, fixed_s: float) -> Costs:
    """Costs of workers that are alike as far as anybody knows; `decide_mapping` puts their measured times in.

    Args:
        plan: V, the global batch size and the level of numerics.
        workers: How many there are.
        pass_s: Seconds of a pass, for a worker that was not timed.
        fixed_s: Seconds of a step beyond its slowest worker's passes, exchange and update included.

    Guarantee:
        Pure. Memory has no limit in it: who sets limits has a profile.

    >>> costs = plain_costs(Plan(virtual_nodes=4, global_batch_size=8), workers=2, pass_s=0.5, fixed_s=0.25)
    >>> costs.world_size, costs.kinds[0].seconds.tolist()
    (2, [0.0, 0.75, 1.25, 1.75, 2.25])
    """
    seconds = np.arange(plan.virtual_nodes + 1, dtype=np.float64) * pass_s
    seconds[1:] += fixed_s
    kind = KindCost(
        kind="worker",
        ranks=range(workers),
        fixed_s=fixed_s,
        seconds=seconds,
        fused=(),
        lone=1.0,
        cap=plan.virtual_nodes,
        gradients=64,
        fits_alone=True,
        base_bytes={1: None},
        bytes_per_s=math.inf,
        latency_s=0.0,
        refusal="",
    )
    return Costs(
        virtual_nodes=plan.virtual_nodes,
        global_batch_size=plan.global_batch_size,
        largest_pass=-(-plan.global_batch_size // plan.virtual_nodes),
        fuses=plan.numerics == "fast",
        gradient_bytes=0,
        kinds=(kind,),
    )
