"""Workers compare notes: before a collective call, and in every round's ledger."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from holdtrue.errors import DivergenceError
from holdtrue.record import DigestRecord
from holdtrue.units import format_ids
from holdtrue.wire import InterruptedReport

from ._calls import Announcement, Call, check_announcements
from ._core import Core
from ._edge import EXIT_INTERRUPTED
from ._elastic import gather_anew
from ._expected import check_expected
from ._notice import Notice

KINDS = ("weights", "buffers", "optimizer", "scheduler", "scaler", "registered", "position")


def agree_on_call(core: Core, call: Call, *, steps: int | None = None) -> None:
    """Make sure that all workers are at the same call of the same job; before the first step, with equal models.

    Args:
        core: The run.
        call: The call.
        steps: How many steps it takes in all, where that is known.

    Raises:
        CallMismatchError: a worker is elsewhere.
        DivergenceError: a worker began with another model.

    Blocks:
        Until every worker has come to a call, at most the group's time-out.
    """
    core.place(str(call))
    group, position = core.group, core.calls.position
    digest = ""
    entries: dict[str, str] = {}
    if call.kind == "steps" and not core.has_started:
        check_expected(core)
        digest, entries = core.state.digest(position.digested)
        if core.settings.digest_every == 1 and position.step == 0:
            core.outlet.digests(DigestRecord(step=-1, digest=digest, entries=entries))
    if group.world_size == 1:
        core.unlike.see_alone()
        if core.wishes.is_interrupted or core.must_stop:
            _heed_stop(core, call)
        return
    everyone = _announce(core, call.number, call.kind, digest, f"all workers to come to {call}", steps=steps)
    if any(announcement["stop"] for announcement in everyone):
        _heed_stop(core, call)
    if len({announcement["digest"] for announcement in everyone}) > 1:
        if core.unlike.is_mixed and _is_one_by_kind(everyone):
            core.unlike.unify_start()
            return
        payload = json.dumps(entries).encode()
        maps = gather_anew(
            lambda: group.gather_calls(payload, what="the digests of the initial state"), core.take_up_mapping
        )
        raise DivergenceError(
            say_first_difference([json.loads(m) for m in maps], "before the first step", initial=True)
        )


def _is_one_by_kind(everyone: list[dict[str, Any]]) -> bool:  # Any: JSON values
    """Whether workers on devices of one kind have one state: what differs is how unlike devices round."""
    found = {(a["device_kind"], a["digest"]) for a in everyone}
    return len(found) == len({a["device_kind"] for a in everyone})


def agree_on_entry(core: Core, *, place: str, call: int | None = None, steps: int | None = None) -> None:
    """At the boundary where a planned view was entered: those who stayed and those who came have one state.

    A newcomer that is at another place or of another job ends by itself, and is a loss to the others.

    Args:
        core: The run.
        place: Where the boundary is, for messages: `before step 3`.
        call: Number of the call in whose middle it is; None in a loop over steps.
        steps: How many steps the loop takes in all, where that is known.

    Raises:
        JoinRefusedError: this worker is such a newcomer.
        DivergenceError: a joiner's state is not that of the others.

    Blocks:
        Until joiners have caught up with the script, at most the group's time-out.
    """
    position = core.calls.position
    core.place(f"the boundary {place}")
    if core.group.world_size == 1:
        core.is_entering = False
        return
    digest, entries = core.state.digest(position.digested)
    number, kind = (position.step, "boundary") if call is None else (call, "boundary in a call")
    everyone = _announce(core, number, kind, digest, f"all workers to meet {place}", steps=steps)
    # In a call it has still to show what it does there.
    core.is_entering = core.is_entering and call is not None
    if len({announcement["digest"] for announcement in everyone}) > 1:
        payload = json.dumps(entries).encode()
        maps = gather_anew(
            lambda: core.group.gather_calls(payload, what="the digests of the joiners' state"),
            core.take_up_mapping,
        )
        raise DivergenceError(say_first_difference([json.loads(m) for m in maps], f"after joining {place}"))


def _announce(
    core: Core, number: int, kind: str, digest: str, what: str, *, steps: int | None
) -> list[dict[str, Any]]:
    """What every worker says of itself, once it is sure that all are at the same place of the same job."""

    def gather() -> list[bytes]:
        own = Announcement(
            call=number,
            kind=kind,
            generation=core.generation,
            mapping=str(core.mapping),
            plan=core.plan,
            step=core.calls.position.step,
            layout=hashlib.sha256(core.engine.layout_text().encode()).hexdigest(),
            digest=digest,
            worker=core.unlike.number,
            device_kind=core.unlike.own,
            leading=core.unlike.leading,
            steps=steps,
            is_new=core.is_entering,
            stop=core.wishes.is_interrupted or core.must_stop,
        )
        return core.group.gather_calls(own.encode(), what=what)

    gathered = [json.loads(part) for part in gather_anew(gather, core.take_up_mapping)]
    everyone = check_announcements(gathered, core.unlike.number)
    core.unlike.see_all({a["worker"]: a["device_kind"] for a in everyone}, [a["leading"] for a in everyone])
    return everyone


def check_replicas(core: Core, notices: list[Notice], entries: Mapping[str, str], step: int) -> None:
    """Compare the digests that rode in a round's ledger.

    Raises:
        DivergenceError: two workers' training states differ; the message names worker and first entry.
    """
    # One who has just joined has none of the step before; it was compared when it joined.
    if len({notice.digest for notice in notices} - {bytes(32)}) <= 1:
        return
    payload = json.dumps(dict(entries)).encode()
    maps = gather_anew(
        lambda: core.group.gather_bytes(payload, what=f"the digests before step {step}"), core.take_up_mapping
    )
    raise DivergenceError(say_first_difference([json.loads(m) for m in maps], f"before step {step}"))


def say_first_difference(maps: Iterable[Mapping[str, str]], when: str, *, initial: bool = False) -> str:
    """A sentence on the first entry in which a worker's training state differs from worker 0's.

    >>> say_first_difference([{"weights/a": "1"}, {"weights/a": "2"}], "before step 3").split(";")[0]
    "the training state of worker 1 differs from worker 0's before step 3, first in weights/a (1 of 1 entries differ)"
    """
    where = "that changes the model or optimizer by something that differs between workers"
    if initial:
        where = (
            "before run.steps that draws without the run's seed, reads the clock, or depends on the worker"
        )
    first, *others = list(maps)
    for rank, other in enumerate(others, start=1):
        names = [
            n for n in sorted(first.keys() | other.keys(), key=_place_of) if first.get(n) != other.get(n)
        ]
        if names:
            return (
                f"the training state of worker {rank} differs from worker 0's {when}, first in {names[0]} "
                f"({len(names)} of {len(first)} entries differ); replicas must be equal in every bit. "
                f"Look for code {where}."
            )
    return f"the training state differs between workers {when}; replicas must be equal in every bit."


def _place_of(name: str) -> tuple[int, str]:
    kind = name.partition("/")[0]
    return KINDS.index(kind) if kind in KINDS else len(KINDS), name


def _heed_stop(core: Core, call: Call) -> None:
    """End here, where all workers know of the wish; in a loop over steps, at the boundary after the present step."""
    if core.is_looping:  # that boundary writes a checkpoint, and a call in a step's body could not
        core.wishes.interrupt_agreed = True
    else:
        has_steps = core.has_started or core.calls.position.step > 0
        end_interrupted(core, None if has_steps else say_where(call))


def say_where(call: Call) -> str:
    """Where a run ends that has taken no step: it may predict, and then what it wrote is there. Pure.

    >>> say_where(Call(kind="share", number=2, place=0))
    'interrupted before share (call 2); no step was taken, and what earlier calls have written is kept.'
    """
    return f"interrupted before {call}; no step was taken, and what earlier calls have written is kept."


def say_kept(step: int, run_dir: str | None, kept_step: int | None) -> str:
    """What is left of a run that ends after `step` steps, and how it goes on. Pure.

    >>> say_kept(7, "runs/a", 7)
    'a checkpoint is in runs/a; go on with --resume.'
    >>> say_kept(7, "runs/a", 5)
    'the newest checkpoint in runs/a is that of step 5; go on from there with --resume.'
    """
    if run_dir is None:
        return "no checkpoint was kept, since the run has no run directory."
    if step == 0:
        return "there is nothing to keep yet."
    if kept_step == step:
        return f"a checkpoint is in {run_dir}; go on with --resume."
    if kept_step is not None:
        return (
            f"the newest checkpoint in {run_dir} is that of step {kept_step}; go on from there with --resume."
        )
    return (
        f"no checkpoint of it is in {run_dir}; --resume goes on from the newest one there, if there is one."
    )


def end_interrupted(core: Core, where: str | None = None) -> NoReturn:
    """End the process after a signal or a stop, with the way to go on.

    Args:
        core: The run.
        where: Where it ends and what is kept, as a sentence; None for the steps and their checkpoint.
    """
    step = core.calls.position.step
    kept = say_kept(step, core.settings.run_dir, core.kept_step)
    core.outlet.say(where or f"interrupted after {step} steps; {kept}")
    asked = core.elastic.agent.stop_reason if core.elastic is not None else None
    reason = "a signal asked the run to end" if asked is None else f"the job was asked to end: {asked}"
    core.outlet.event("interrupted", step=step, reason=reason)
    core.has_failed = True
    core.outlet.send(InterruptedReport(rank=core.number, steps=step))
    if core.elastic is not None:
        # Else its end, with that status, looks like a death; and others would be started in its place.
        core.elastic.agent.say_end(how="interrupted")
    raise SystemExit(EXIT_INTERRUPTED)


def say_start(core: Core) -> str:
    """The start-up line: plan, mapping, numerics and seed in force, and where overridden values came from."""
    plan, kind = core.plan, core.device.type
    held = enumerate(core.mapping.held)
    devices = [f"{kind}:{r} -> {format_ids(ids)}" if ids else f"{kind}:{r} standby" for r, ids in held]
    size, rest = divmod(plan.global_batch_size, plan.virtual_nodes)
    parts = [
        f"global batch {plan.global_batch_size} = {plan.virtual_nodes} virtual nodes x {size}"
        + (f"..{size + 1}" if rest else ""),
        *devices,
        f"numerics {plan.numerics}",
        f"seed {plan.seed}",
    ]
    names = ("virtual_nodes", "global_batch_size", "seed", "numerics")
    origins = {
        n: core.settings.origins[n] for n in names if core.settings.origins.get(n, "script") != "script"
    }
    if origins:
        parts.append(", ".join(f"{name} from {origin}" for name, origin in origins.items()))
    return " · ".join(parts)
