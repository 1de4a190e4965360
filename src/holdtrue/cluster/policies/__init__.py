"""Who gets which devices: pure functions of the cluster's state.

    in:  ClusterState (time, cluster, jobs in order of arrival)
    out: Decision (devices for each job, or shares of time for each job) with its reason

The live scheduler and the simulator call the same functions. No policy reads a job's name.
"""

from ._deal import deal_devices
from ._registry import POLICIES, Policy, find_policies
from ._shares import isolated_rates
from ._wfs import Bounds, divide_any_count, divide_power_of_two

__all__ = [
    "POLICIES",
    "Bounds",
    "Policy",
    "deal_devices",
    "divide_any_count",
    "divide_power_of_two",
    "find_policies",
    "isolated_rates",
]
