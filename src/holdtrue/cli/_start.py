"""The starting mapping of `holdtrue run`: measured passes and the devices here in, V and a mapping out."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, cast, final, get_args

from holdtrue.errors import UsageError
from holdtrue.launch import count_cuda_devices, name_cuda_devices, torch_has_cuda
from holdtrue.plan import NumericsLevel, Plan
from holdtrue.wire import Setting

from ._options import settings_in_force
from ._say import say
from ._seats import Seat, limits_of_seats, say_shared, seat_workers

if TYPE_CHECKING:
    from holdtrue.profile import Profile


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """What the command line says of devices and plan.

    Raises:
        UsageError: options contradict each other.
    """

    devices: str
    """`cpu:4,cuda:1`."""
    profiles: tuple[Path, ...] = ()
    """Profile files; without any, the devices share the virtual nodes evenly."""
    memory: tuple[str, ...] = ()
    """Limits, `cpu=2GiB`."""
    is_auto: bool = False
    """Whether V is the solver's."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a job begins."""

    devices: tuple[str, ...]
    """The device of each worker, by rank."""
    virtual_nodes: int | None
    """V; None leaves it to the script."""
    mapping: str | None
    """Text of the mapping; None for the even one."""
    global_batch_size: int | None = None
    """B, where the mapping was made for it."""
    expected: str | None = None
    """What the profile was measured with, for the workers to compare: JSON."""
    costs: str | None = None
    """The profile and the limits of memory, for a running job that re-maps: JSON."""
    notes: tuple[str, ...] = ()
    """Sentences for the user."""

    def settings(self) -> dict[str, Setting]:
        """The plan that the mapping was made for, frozen into the job's settings."""
        values = {"virtual_nodes": self.virtual_nodes, "global_batch_size": self.global_batch_size}
        return {name: value for name, value in values.items() if value is not None}


def begin_at(
    devices: str | None,
    profiles: Sequence[Path] | None,
    memory: Sequence[str] | None,
    *,
    is_auto: bool,
    device: str | None,
    workers: int | None,
    mapping: str | None,
    given: Mapping[str, Setting],
) -> Start | None:
    """Where a job of `holdtrue run` begins; None where no option asks for devices by kind.

    Raises:
        UsageError, PlanError: see `choose_start`.
    """
    if devices is None and not profiles and not memory and not is_auto:
        return None
    force = settings_in_force(given, os.environ)
    if devices is None:
        here = count_devices(int(force.get("threads", 1)))
        kind = str(force.get("device", "auto"))
        kind = ("cuda" if here["cuda"] else "cpu") if kind == "auto" else kind
        devices = f"{kind}:{workers or 1}"
    elif device is not None:
        raise UsageError(
            f"--devices is {devices} and --device is {device}; the list says kind and number. Leave out --device."
        )
    start = choose_start(
        StartRequest(
            devices=devices, profiles=tuple(profiles or ()), memory=tuple(memory or ()), is_auto=is_auto
        ),
        force=force,
        cuda_devices=count_cuda_devices(os.environ) if torch_has_cuda() else 0,
        gpus=lambda: name_cuda_devices(os.environ),
        workers=workers,
        has_mapping=mapping is not None,
    )
    for note in start.notes:
        say(note)
    return start


def format_devices(names: Sequence[str]) -> str:
    """The device list of workers' devices.

    >>> format_devices(("cpu", "cpu", "cuda:0"))
    'cpu:2,cuda:1'
    """
    kinds = [name.partition(":")[0] for name in names]
    return ",".join(f"{kind}:{kinds.count(kind)}" for kind in dict.fromkeys(kinds))


def count_devices(threads: int) -> dict[str, int]:
    """Devices of each kind on this machine: CPU slots of `threads` threads, and CUDA devices."""
    cores = len(os.sched_getaffinity(0))
    cuda = count_cuda_devices(os.environ) if torch_has_cuda() else 0
    return {"cpu": max(1, cores // threads), "cuda": cuda}


def choose_start(
    request: StartRequest,
    *,
    force: Mapping[str, Setting],
    cuda_devices: int,
    gpus: Callable[[], Sequence[str]],
    workers: int | None,
    has_mapping: bool,
) -> Start:
    """Devices, V and mapping that a job starts with.

    Args:
        request: What the command line says.
        force: Settings in force but for the script's own.
        cuda_devices: CUDA devices on this machine.
        gpus: Finds out their full names; called where a profile, or a kind, asks for them.
        workers: `--workers`, where given.
        has_mapping: Whether `--mapping` is given.

    Raises:
        UsageError: options contradict each other, a list cannot be read, a device is not here, or a profile is
            of other devices or another number of threads.
        PlanError: no mapping can hold the batch; the message gives the largest pass that fits and its V.

    Guarantee:
        Pure but for reading the profiles: the same arguments give the same start.
    """
    from holdtrue.profile import merge_profiles, read_profile
    from holdtrue.solve import parse_devices, parse_memory

    groups = parse_devices(request.devices)
    count = sum(group.count for group in groups)
    if workers is not None and workers != count:
        raise UsageError(
            f"--workers is {workers} and --devices names {count}; each device has one worker. Leave out --workers."
        )
    limits = parse_memory(list(request.memory))
    asked = {group.kind for group in groups} - {"cpu"}
    needs_models = bool(cuda_devices and asked and (request.profiles or asked != {"cuda"}))
    models = tuple(gpus()) if needs_models else ("",) * cuda_devices
    if not request.profiles:
        return _start_without(request, seat_workers(groups, models))
    if has_mapping:
        raise UsageError(
            "--mapping and --profile were given; a mapping is yours or the solver's. Leave one of them out."
        )
    profile = merge_profiles([read_profile(path) for path in request.profiles])
    seats = seat_workers(groups, models, profile)
    _check_threads(profile, seats, int(force.get("threads", 1)))
    return solve_start(
        profile,
        seats,
        limits=limits_of_seats(limits, seats),
        virtual_nodes=None if request.is_auto else _number(force, "virtual_nodes"),
        is_auto=request.is_auto,
        global_batch_size=_number(force, "global_batch_size"),
        numerics=_level(force, profile),
        origin=", ".join(str(path) for path in request.profiles),
    )


def solve_start(
    profile: "Profile",
    seats: Sequence[Seat],
    *,
    limits: Mapping[str, int],
    virtual_nodes: int | None,
    is_auto: bool,
    global_batch_size: int | None,
    numerics: NumericsLevel,
    origin: str,
) -> Start:
    """The solver's start for these devices. Pure.

    Args:
        profile: Measured passes.
        seats: The device of each worker, by rank, and its kind.
        limits: Memory in bytes by kind (or `KIND:INDEX`), in place of the profile's.
        virtual_nodes: V; None for that of the script when it was measured, or with `is_auto`.
        is_auto: Whether V is the solver's.
        global_batch_size: B; None for that of the script when it was measured.
        numerics: Level.
        origin: Where the profile is from, for messages.

    Raises:
        UsageError: V or B is not known, or a device has no profile.
        PlanError: no mapping can hold the batch.
    """
    from holdtrue.profile import check_profile
    from holdtrue.solve import (
        DeviceGroup,
        JobCosts,
        Place,
        Standing,
        check_limits,
        format_job_costs,
        recommend,
        solve,
        split_limits,
    )

    check_profile(profile, kinds=[seat.kind for seat in seats])
    names = tuple(seat.device for seat in seats)
    measured: dict[str, list[str]] = {}
    for seat in seats:
        if (name := profile.device(seat.kind).name) not in measured.setdefault(seat.type, []):
            measured[seat.type].append(name)
    groups = [
        DeviceGroup(kind=kind, count=len(list(same))) for kind, same in groupby(seat.kind for seat in seats)
    ]
    base, places, limits = split_limits(profile, groups, limits)
    check_limits(base, limits)
    job = JobCosts(
        profile=base,
        memory_bytes=limits,
        places=tuple(
            Place(kind=kind, device=device)
            for kind, device in zip((g.kind for g in places for _ in range(g.count)), names, strict=True)
        ),
    )
    standing = [Standing(number=rank, device=device) for rank, device in enumerate(names)]
    profile, kinds, limits = job.problem_of(standing)
    groups = [DeviceGroup(kind=kind, count=len(list(same))) for kind, same in groupby(kinds)]
    script: dict[str, int | None] = {}
    if global_batch_size is None:
        global_batch_size = script["global_batch_size"] = profile.global_batch_size
    if virtual_nodes is None and not is_auto:
        virtual_nodes = script["virtual_nodes"] = profile.virtual_nodes
    if global_batch_size is None or (virtual_nodes is None and not is_auto):
        missing = "--global-batch-size" if global_batch_size is None else "--virtual-nodes"
        raise UsageError(
            f"the solver needs the plan, and neither the command line nor {origin} says {missing}; the script's own "
            f"value is known to the workers alone. Give {missing}, or measure again with `holdtrue profile`."
        )
    if is_auto:
        answer = recommend(
            profile, groups, global_batch_size=global_batch_size, numerics=numerics, memory_bytes=limits
        ).answer
    else:
        assert virtual_nodes is not None, "checked above"
        plan = Plan(virtual_nodes=virtual_nodes, global_batch_size=global_batch_size, numerics=numerics)
        answer = solve(profile, groups, plan, memory_bytes=limits)
    facts = {
        "profile": origin,
        "model_hash": profile.model_hash,
        "torch": profile.torch_version,
        "script": script,
        "devices": measured,
    }
    counts = ", ".join(
        f"{names[w.rank]} {w.virtual_nodes or 'standby'}" for w in answer.prediction.workers[:16]
    ) + (", ..." if len(names) > 16 else "")
    note = (
        f"mapping of {origin}: {answer.plan.virtual_nodes} virtual nodes x {answer.largest_pass} ({counts}); "
        f"a step is predicted to take {answer.step_s:.4g} s"
    )
    return Start(
        devices=names,
        virtual_nodes=answer.plan.virtual_nodes,
        mapping=str(answer.mapping),
        global_batch_size=global_batch_size,
        expected=json.dumps(facts),
        costs=format_job_costs(job),
        notes=(*say_shared(seats), note),
    )


def _start_without(request: StartRequest, seats: Sequence[Seat]) -> Start:
    """Without measured passes: an even mapping."""
    what = "--virtual-nodes auto" if request.is_auto else "--memory" if request.memory else ""
    if what:
        raise UsageError(
            f"{what} needs measured passes, and no --profile is given; what a device can do is measured, not guessed. "
            f"Run `holdtrue profile` with the script, and give its file with --profile."
        )
    return Start(devices=tuple(seat.device for seat in seats), virtual_nodes=None, mapping=None)


def _check_threads(profile: "Profile", seats: Sequence[Seat], threads: int) -> None:
    for kind in dict.fromkeys(seat.kind for seat in seats):
        if kind not in {device.kind for device in profile.devices}:
            continue  # said by check_profile
        measured = profile.device(kind).threads
        if measured != threads:
            raise UsageError(
                f"{kind} was measured with {measured} thread(s) a worker, and this job has {threads}; a pass takes "
                f"another time. Give --threads {measured}, or measure again with `holdtrue profile --threads {threads}`."
            )


def _number(force: Mapping[str, Setting], name: str) -> int | None:
    value = force.get(name)
    return int(value) if value is not None else None


def _level(force: Mapping[str, Setting], profile: "Profile") -> NumericsLevel:
    """The level of numerics: given, or that of the measurement."""
    found = str(force.get("numerics", profile.numerics))
    for level in get_args(NumericsLevel):
        if level == found:
            return cast(NumericsLevel, level)
    raise UsageError(f"numerics is {found!r}; the levels are exact, portable, fast. Give one of them.")
