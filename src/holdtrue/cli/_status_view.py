"""What `holdtrue status` prints. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from holdtrue.launch import JobEntry, JobState

from ._progress import format_elapsed, format_value

_PHASES = {
    "founding": "starting",
    "running": "running",
    "stopping": "stopping at the next boundary",
}
_WORKER_PHASES = {
    "starting": "starting",
    "waiting": "loads its script",
    "ready": "ready to enter",
    "member": "",
    "leaving": "leaves at the next boundary",
    "dismissed": "ends",
}


_MOST_MAPPING = 60
"""Characters of a mapping that are shown."""


def describe_jobs(jobs: Sequence[tuple[JobEntry, JobState]], now_s: float) -> list[str]:
    """All jobs of the user, a line each."""
    if not jobs:
        return ["No job of yours runs on this machine, or ran since it was started."]
    width = max(len(entry.name) for entry, _ in jobs)
    lines: list[str] = []
    for entry, state in jobs:
        until_s = entry.ended_s if state != "running" else now_s  # nobody knows when a killed one ended
        elapsed = "" if until_s is None else format_elapsed(until_s - entry.started_s)
        what = {
            "running": "running",
            "lost": "its launcher was killed",
            "elsewhere": f"runs on {entry.host}, where it can be asked",
        }.get(state) or str(entry.ending)
        lines.append(f"{entry.name:<{width}}  {elapsed:>8}  {what}")
    return lines


def describe_entry(entry: JobEntry, state: JobState) -> list[str]:
    """A job whose controller does not answer: it ended, or is about to."""
    if state == "running":
        return [f"{entry.name} runs; its records are in {entry.run_dir}."]
    if state == "elsewhere":
        return [
            f"{entry.name} runs on {entry.host}, as far as is known here; ask there. Its records are in {entry.run_dir}."
        ]
    how = (
        entry.ending
        or "Its launcher was killed: its workers ended at a boundary, where what is done is kept, or soon after."
    )
    lines = [f"{entry.name} runs no more. {how}"]
    if entry.can_go_on:
        lines.append(f"Go on with:\n    {entry.resume_command}")
    return lines


def describe_job(entry: JobEntry, facts: Mapping[str, Any]) -> list[str]:  # Any: JSON values
    """A running job, from its controller's facts.

    Args:
        entry: Its entry.
        facts: What `GET /v1/job` answers.
    """
    members = [worker for worker in facts["workers"] if worker["rank"] is not None]
    title = [f"{entry.name}: {_PHASES.get(facts['phase'], facts['phase'])}", *_progress(facts)]
    lines = [" · ".join(title)]
    if facts["reason"]:
        lines.append(f"  because: {facts['reason']}")
    size = f"generation {facts['generation']} of {_count(len(members), 'worker')}"
    if facts["target"] != len(members) and facts["phase"] in ("founding", "running"):
        size += f", on the way to {facts['target']}"
    if facts["unplaced"]:
        size += f"; {facts['unplaced']} find no room: add a device with `holdtrue worker --join {entry.url}`"
    lines.append(f"  {size}" + (f" ({facts['cause']})" if facts["cause"] else ""))
    lines += _mapping(facts)
    lines += [_describe_worker(worker) for worker in sorted(facts["workers"], key=_by_rank)]
    lines.append(f"  records in {entry.run_dir}")
    if "serves" not in facts["progress"]:
        lines.append(f"  devices join at {entry.url} with the token in {entry.join_file}")
    return lines


def _progress(facts: Mapping[str, Any]) -> list[str]:  # Any: JSON values
    progress = facts["progress"]
    if "serves" in progress:
        return [
            f"serves {progress['serves']}",
            str(progress["passes"]),
            f"{progress['waiting']} examples wait",
        ]
    if isinstance(progress.get("predicted"), int):
        return [f"predicted {progress['predicted']} of {progress.get('examples')} examples"]
    step = max(facts["step"], progress.get("step") or 0)
    total = progress.get("total")
    parts = [f"step {step}" + (f"/{total}" if total else "")] if facts["generation"] else []
    if isinstance(progress.get("epoch"), int):
        parts.append(f"epoch {progress['epoch']}")
    if isinstance(progress.get("loss"), int | float):
        parts.append(f"loss {format_value(float(progress['loss']))}")
    return parts


def _mapping(facts: Mapping[str, Any]) -> list[str]:  # Any: JSON values
    """Which worker holds what, and what a pass takes on each, as the run last said."""
    progress = facts["progress"]
    mapping, least, most = (progress.get(n) for n in ("mapping", "fastest_pass_s", "slowest_pass_s"))
    if not isinstance(mapping, str):
        return []
    shown = mapping if len(mapping) <= _MOST_MAPPING else mapping[: _MOST_MAPPING - 3] + "..."
    seconds = ""
    if isinstance(least, int | float) and isinstance(most, int | float):
        seconds = f" · {1e3 * least:.3g} to {1e3 * most:.3g} ms a virtual node"
    return [f"  mapping {shown}{seconds}"]


def _describe_worker(worker: Mapping[str, Any]) -> str:  # Any: JSON values
    pid = f"pid {worker['pid']}" if worker["pid"] else ""  # it has not said it yet
    rank = "" if worker["rank"] is None else f"rank {worker['rank']}"
    said = _WORKER_PHASES.get(worker["phase"], worker["phase"])
    if worker["phase"] == "member" and not worker["is_connected"]:
        said = "out of the controller's sight"
    return (
        f"    worker {worker['worker']:<3} {rank:<8} {worker['device'] or '':<8} "
        f"{worker['host'] or '':<10} {pid:<12} {said}"
    ).rstrip()


def _by_rank(worker: Mapping[str, Any]) -> tuple[bool, int, int]:  # Any: JSON values
    return worker["rank"] is None, worker["rank"] or 0, worker["worker"]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
