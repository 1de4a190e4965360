"""The run directory on disk: what a run leaves behind, and how two runs are compared.

    run:      RunDirectory.create(dir, plan, environment) -> append_step, append_digests, append_event
    reader:   read_run(dir) -> RunRecord: plan, environment, steps, digests, events, conflicts
    expect:   describe_expectation(run) -> JSON, read_expectation(file) -> RunRecord: what another run must get
    compare:  compare_runs(a, b) -> Comparison: equal, or the first step and tensors that differ

One writer at a time, by a lock; readers any time. No torch. The checkpoints in it are `engine`'s.
"""

from ._compare import Comparison, compare_runs
from ._differences import Difference, plan_differences
from ._expectation import describe_expectation, parse_expectation, read_expectation
from ._files import Json, sync_folder
from ._reader import read_plan, read_run
from ._records import Conflict, DigestRecord, EventRecord, MetricsRecord, RunRecord, StepRecord
from ._workers import workers_over_steps
from ._writer import RunDirectory

__all__ = [
    "Comparison",
    "Conflict",
    "Difference",
    "DigestRecord",
    "EventRecord",
    "Json",
    "MetricsRecord",
    "RunDirectory",
    "RunRecord",
    "StepRecord",
    "compare_runs",
    "describe_expectation",
    "parse_expectation",
    "plan_differences",
    "read_expectation",
    "read_plan",
    "read_run",
    "sync_folder",
    "workers_over_steps",
]
