"""Sharing a cluster: policies, and a simulator that runs them on traces.

    jobs = read_trace(path); cluster = parse_cluster("v100:8")
    outcome = run_simulation(jobs, cluster, POLICIES["wfs"])     # the same policies serve live jobs
    summary = summarise_outcome(outcome)                         # JCT, queuing, use, fairness

    schedule, decision = advance_schedule(schedule, event, now_s)    # of a live cluster; its log replays

Policies, simulator and metrics are pure: no clock, no files, no random; traces and charts are the edges.
"""

from ._charts import stack_devices, write_html, write_png
from ._jobs import Cluster, Grant, Job, Queue, Rates, parse_cluster
from ._live import (
    Ended,
    Lost,
    Observed,
    Opened,
    PolicyChosen,
    Schedule,
    ScheduleEvent,
    Submitted,
    advance_schedule,
    find_live_policy,
)
from ._log import (
    LogRecord,
    Replay,
    decide_record,
    read_log,
    rebuild_schedule,
    record_from_values,
    record_to_values,
    replay_schedule,
)
from ._metrics import Summary, change_against, finish_time_fairness, format_jobs_csv, summarise_outcome
from ._outcome import Costs, JobOutcome, Outcome, Rounds, Segment
from ._simulator import check_demands, run_simulation
from ._state import ClusterState, Decision, FreeDevices, JobView
from .policies import POLICIES, Policy, find_policies

__all__ = [
    "POLICIES",
    "Cluster",
    "ClusterState",
    "Costs",
    "Decision",
    "Ended",
    "FreeDevices",
    "Grant",
    "Job",
    "JobOutcome",
    "JobView",
    "LogRecord",
    "Lost",
    "Observed",
    "Opened",
    "Outcome",
    "Policy",
    "PolicyChosen",
    "Queue",
    "Rates",
    "Replay",
    "Rounds",
    "Schedule",
    "ScheduleEvent",
    "Segment",
    "Submitted",
    "Summary",
    "advance_schedule",
    "change_against",
    "check_demands",
    "decide_record",
    "find_live_policy",
    "find_policies",
    "finish_time_fairness",
    "format_jobs_csv",
    "parse_cluster",
    "read_log",
    "rebuild_schedule",
    "record_from_values",
    "record_to_values",
    "replay_schedule",
    "run_simulation",
    "stack_devices",
    "summarise_outcome",
    "write_html",
    "write_png",
]
