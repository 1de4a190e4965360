"""The elasticity traces of the VirtualFlow paper: JSON lists of workloads."""

from collections.abc import Sequence

from holdtrue.cluster._jobs import Job
from holdtrue.errors import UsageError

from ._fields import number_in, object_at, refuse, text_in
from ._positions import Node, parse_json
from ._speeds import HELD_OUT, MODELS, TRAINING, StepModel, rates_of

_REQUIRED = ("arrival_time", "workload", "gpu_demand", "priority", "batch_size")
_OPTIONAL = ("num_steps", "num_epochs", "dataset", "glue_task", "num_virtual_nodes_per_device", "duration_s")


def parse_paper_trace(
    text: str, name: str, *, durations: Sequence[float] = (), start_s: float = 0.0
) -> tuple[Job, ...]:
    """Jobs of an elasticity trace; demand is the maximum, the minimum is 1, priority is the weight.

    Args:
        text: The file.
        name: Its name, for messages.
        durations: Measured seconds of each job at full demand, start-up included; empty: estimated from the fitted
            speeds (holdtrue.cluster.traces._speeds). A job's own `duration_s` counts before both.
        start_s: Start-up in those durations, taken out, since the simulator charges it.

    Raises:
        UsageError: the text is not such a trace; the message gives line and column.
    """
    root = parse_json(text, name)
    if not isinstance(root.value, list):
        raise refuse(name, root.place, "found no list", "the paper's traces are lists of jobs")
    if durations and len(durations) != len(root.value):
        raise UsageError(
            f"{len(durations)} durations are given for the {len(root.value)} jobs of {name}; each job needs one. "
            "Pass them in the order of the jobs."
        )
    given = [*durations, *[0.0] * (len(root.value) - len(durations))]
    return tuple(
        _job(name, str(i), node, seconds, start_s)
        for i, (node, seconds) in enumerate(zip(root.value, given, strict=True))
    )


def _job(name: str, id_: str, node: Node, duration_s: float, start_s: float) -> Job:
    members = object_at(name, node, _REQUIRED, _OPTIONAL)
    demand = int(number_in(name, members, "gpu_demand", 1, least=1, whole=True))
    batch = int(number_in(name, members, "batch_size", 1, least=1, whole=True))
    model, steps, evaluated = _work(name, node, members, batch)
    rates = rates_of(model, demand, batch, evaluated)
    duration_s = number_in(name, members, "duration_s", duration_s, least=0)
    work = (duration_s - start_s) * rates.at("*", demand) if duration_s else float(steps)
    if work <= 0:
        rule = f"a duration must be above the start-up of {start_s:g} s"
        raise refuse(name, node.place, f"job {id_} lasts {duration_s:g} s", rule)
    return Job(
        id=id_,
        arrival_s=number_in(name, members, "arrival_time", 0, least=0),
        work=work,
        rates=rates,
        max_devices=demand,
        weight=number_in(name, members, "priority", 1, least=1e-9),
        kind=f"{members['workload'].value} (batch size {batch})",
    )


def _work(name: str, node: Node, members: dict[str, Node], batch: int) -> tuple[StepModel, int, float]:
    """Step model, steps in all, and held-out examples per step."""
    workload = text_in(name, members, "workload", "")
    data = text_in(name, members, "glue_task", text_in(name, members, "dataset", ""))
    key = "cifar10" if data == "cifar10" else workload
    if key not in MODELS:
        rule = f"speeds are known for {', '.join(sorted(MODELS))}"
        raise refuse(name, members["workload"].place, f"workload {workload!r} is unknown", rule)
    epochs = int(number_in(name, members, "num_epochs", 1, least=1, whole=True))
    if "num_steps" in members:
        per_epoch = int(number_in(name, members, "num_steps", 1, least=1, whole=True))
    elif data in TRAINING:
        per_epoch = max(1, TRAINING[data] // batch)
    else:
        raise refuse(name, node.place, f"data set {data!r} is unknown", "the job must give num_steps")
    return MODELS[key], per_epoch * epochs, HELD_OUT.get(data, 0) / per_epoch
