"""What a running job knows of costs besides pass times: with a profile, and without one."""

import math
from dataclasses import replace

import numpy as np

from holdtrue.mapping import Mapping
from holdtrue.plan import Plan

from ._cost import Costs, KindCost
from ._predict import predict_costs


def correct_costs(costs: Costs, mapping: Mapping, rest_s: float) -> Costs:
    """The costs with the measured rest of a step in place of the profile's.

    A profile that was measured while something else ran has an exchange that is too dear, and one without the
    script's evaluations a fixed part that is too small. Between workers the fixed part is at most the rest, and the exchange is
    scaled to what is left; of a worker alone all of the rest is fixed, and the exchange stays the profile's.

    Args:
        costs: What the profile says.
        mapping: Who holds what, now.
        rest_s: Measured seconds of a step beyond its slowest worker's passes.

    Guarantee:
        Pure. Under `mapping` a step of the corrected costs takes its slowest passes and `rest_s`, where kinds have equal
        fixed parts.
    """
    exchange_s = predict_costs(costs, mapping).exchange_s
    scale = 1.0
    if exchange_s > 0.0:
        fixed_s = min(rest_s, max(kind.fixed_s for kind in costs.kinds))
        scale = (rest_s - fixed_s) / exchange_s
    else:
        fixed_s = rest_s
    kinds = []
    for kind in costs.kinds:
        seconds = kind.seconds.copy()
        seconds[1:] += fixed_s - kind.fixed_s
        kinds.append(
            replace(
                kind,
                fixed_s=fixed_s,
                seconds=seconds,
                latency_s=kind.latency_s * scale,
                bytes_per_s=kind.bytes_per_s / scale if scale > 0.0 else math.inf,
            )
        )
    return replace(costs, kinds=tuple(kinds))


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
