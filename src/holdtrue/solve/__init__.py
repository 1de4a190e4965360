"""Who should do how much: measured passes and a list of devices in, a mapping out.

    in:  Profile, devices (`v100:2,p100:8`), Plan (or a global batch size, and V is chosen too)
    out: Answer: mapping, predicted step time, memory; Recommendation: with rivals and reasons
    and, while a job runs: measured pass times in, another mapping or none out (decide_mapping)

Pure: no torch, no clock, no files. docs/design/0010-solver.md has the cost model and the proof.
"""

from ._cost import Costs, cost_devices
from ._devices import DeviceGroup, parse_devices, parse_memory, parse_size
from ._job import JobCosts, Place, Standing, format_job_costs, parse_job_costs
from ._layout import aligned_mapping
from ._limits import check_limits, split_limits
from ._live import correct_costs, plain_costs
from ._predict import StepPrediction, WorkerPrediction, predict_step
from ._rebalance import Rebalance, RebalanceOptions, RebalanceState, decide_mapping, measured_costs
from ._recommend import OneType, Recommendation, RunnerUp, candidate_virtual_nodes, recommend
from ._solve import Answer, IdleDevices, best_mapping, can_hold, has_room, solve

__all__ = [
    "Answer",
    "Costs",
    "DeviceGroup",
    "IdleDevices",
    "JobCosts",
    "OneType",
    "Place",
    "Rebalance",
    "RebalanceOptions",
    "RebalanceState",
    "Recommendation",
    "RunnerUp",
    "Standing",
    "StepPrediction",
    "WorkerPrediction",
    "aligned_mapping",
    "best_mapping",
    "can_hold",
    "candidate_virtual_nodes",
    "check_limits",
    "correct_costs",
    "cost_devices",
    "decide_mapping",
    "format_job_costs",
    "has_room",
    "measured_costs",
    "parse_devices",
    "parse_job_costs",
    "parse_memory",
    "parse_size",
    "plain_costs",
    "predict_step",
    "recommend",
    "solve",
    "split_limits",
]
