"""The job as those who look see it. Pure."""

from collections.abc import Mapping
from typing import Any

from ._state import State, Worker


def describe_job(state: State, progress: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON values
    """Facts of a job as JSON values: what `GET /v1/job` answers.

    Args:
        state: The controller's.
        progress: What the run last said of itself.
    """
    newest = state.chain[0] if state.chain else None
    ranks = {} if newest is None else {member.worker: rank for rank, member in enumerate(newest.members)}
    return {
        "name": state.settings.name,
        "phase": _phase_of(state),
        "reason": state.over_reason or state.stop_reason or "",
        "generation": newest.generation if newest is not None else 0,
        "target": state.target,
        "most": state.settings.most,
        "mapping": newest.mapping if newest is not None else state.mapping,
        "cause": newest.cause if newest is not None else "",
        "step": max((worker.step for worker in state.workers), default=0),
        "restarts_left": state.restarts_left,
        "unplaced": max(0, state.target - len(state.counted)) if state.phase != "over" else 0,
        "workers": [_describe_worker(w, ranks.get(w.number)) for w in state.workers if w.phase != "gone"],
        "hosts": [
            {
                "name": host.name,
                "address": host.address,
                "slots": host.slots,
                "running": list(host.running),
                "is_connected": host.is_connected,
            }
            for host in state.hosts
        ],
        "progress": dict(progress),
    }


def _phase_of(state: State) -> str:
    if state.phase == "over":
        return state.how_over or "failed"
    return "stopping" if state.stop_reason is not None else state.phase


def _describe_worker(worker: Worker, rank: int | None) -> dict[str, Any]:  # Any: JSON values
    return {
        "worker": worker.number,
        "rank": rank,
        "phase": "leaving" if worker.is_leaving else worker.phase,
        "device": worker.address.device if worker.address is not None else None,
        "address": worker.address.host if worker.address is not None else None,
        "host": worker.host,
        "pid": worker.pid,
        "generation": worker.generation,
        "step": worker.step,
        "is_connected": worker.is_connected,
    }
