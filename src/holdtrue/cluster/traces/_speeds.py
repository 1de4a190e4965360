"""How fast the paper's workloads train on fewer devices than they ask for.

The elasticity traces name workloads, batch sizes and epochs, not durations. The logged durations of the 20 jobs of
`medium20_12jph` at full demand (8 V100, TensorFlow 2.4) are fitted, workload by workload, by

    seconds per step = base + sync * log2(devices) + example * examples per device + evaluation * (share of a step)

with non-negative least squares on relative errors (benchmarks/fit_paper_speeds.py). The nine BERT jobs, six ImageNet
jobs and four Transformer jobs are met within 14 per cent. A step that costs much in synchronisation makes a job
nearly as fast on half of its devices: that is where the paper's gain in makespan comes from.
"""

import math
from dataclasses import dataclass

from holdtrue.cluster._jobs import Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class StepModel:
    """Seconds per step of one workload on V100s of one server."""

    base_s: float
    """Seconds whatever the batch."""
    sync_s: float
    """Seconds for each doubling of the devices."""
    example_s: float
    """Seconds per example (or token) on a device."""
    evaluation_s: float = 0.0
    """Seconds per held-out example, on any number of devices."""

    def seconds(self, devices: int, batch: int, evaluated: float) -> float:
        """Seconds per step on `devices`, with `evaluated` held-out examples per step.

        >>> round(MODELS["bert"].seconds(4, 64, 0.0), 3)
        0.402
        """
        own = self.base_s + self.sync_s * math.log2(devices) + self.example_s * batch / devices
        return own + self.evaluation_s * evaluated


MODELS = {
    "bert": StepModel(base_s=0.0182, sync_s=0.1159, example_s=9.49e-3),
    "resnet": StepModel(base_s=0.0217, sync_s=0.0445, example_s=9.22e-4, evaluation_s=1.09e-3),
    "cifar10": StepModel(base_s=0.0, sync_s=0.0445, example_s=3.75e-4),
    "transformer": StepModel(base_s=0.0, sync_s=0.1588, example_s=1.246e-4),
}
"""Fitted models; `cifar10` has one logged job on one device and takes its synchronisation from `resnet`."""
TRAINING = {"CoLA": 8551, "SST-2": 67349, "QNLI": 104743, "RTE": 2490, "imagenet": 1281167, "cifar10": 50000}
"""Training examples by data set."""
HELD_OUT = {"CoLA": 1043, "SST-2": 872, "QNLI": 5463, "RTE": 277, "imagenet": 50000, "cifar10": 10000}
"""Held-out examples by data set, read once an epoch."""


def rates_of(model: StepModel, demand: int, batch: int, evaluated: float) -> Rates:
    """Rates of any device type for 1 to `demand` devices, in steps per second.

    >>> rates = rates_of(MODELS["bert"], 8, 64, 0.0)
    >>> round(rates.at("v100", 4) / rates.at("v100", 8), 2)
    1.1
    """
    points = tuple((n, 1.0 / model.seconds(n, batch, evaluated)) for n in range(1, demand + 1))
    return Rates(by_type=(("*", points),))
