"""Which devices of this machine a list such as `cpu:4,cuda:2` means, and which entry of a profile each stands on. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from holdtrue.errors import UsageError
from holdtrue.launch import kind_of_model

if TYPE_CHECKING:
    from holdtrue.profile import Profile
    from holdtrue.solve import DeviceGroup


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """The device of one worker."""

    device: str
    """`cpu`, `cuda:1`."""
    kind: str
    """Its entry in the profile; without a profile as it was asked for."""
    model: str = ""
    """Full name of a CUDA device; empty if unknown."""
    asked: tuple[str, int]
    """The kind that the list says, and which of its devices this is, from 0."""

    @property
    def type(self) -> str:
        """`cpu` or `cuda`."""
        return self.device.partition(":")[0]


def seat_workers(
    groups: "Sequence[DeviceGroup]", models: Sequence[str], profile: "Profile | None" = None
) -> tuple[Seat, ...]:
    """The device of each worker, by rank: devices of one kind stand side by side.

    Args:
        groups: The list: `cpu`, `cuda` for the GPUs of this machine as torch numbers them, or the kind of a GPU's model.
        models: Full names of the CUDA devices here, by index; empty texts where unknown.
        profile: Says what kind each device is; None leaves them as they were asked for.

    Raises:
        UsageError: there is no such device here, or the profile has none of its model.

    >>> from holdtrue.solve import parse_devices
    >>> found = seat_workers(parse_devices("cpu:1,cuda:2,a100:1"), ("NVIDIA H100", "NVIDIA A100"))
    >>> [(seat.device, seat.kind) for seat in found]
    [('cpu', 'cpu'), ('cuda:0', 'cuda'), ('cuda:1', 'cuda'), ('cuda:1', 'a100')]
    """
    seats: list[Seat] = []
    for group in groups:
        for index, device in enumerate(_devices_of(group, models, profile)):
            model = models[int(device.partition(":")[2])] if device != "cpu" else ""
            kind = group.kind if profile is None else _kind_of(device, model, profile)
            seats.append(Seat(device=device, kind=kind, model=model, asked=(group.kind, index)))
    kinds = list(dict.fromkeys(seat.kind for seat in seats))
    return tuple(sorted(seats, key=lambda seat: kinds.index(seat.kind)))


def _devices_of(group: "DeviceGroup", models: Sequence[str], profile: "Profile | None") -> list[str]:
    """The devices of one entry of the list; workers beyond the number of GPUs share them."""
    if group.kind == "cpu":
        return ["cpu"] * group.count
    named = "" if profile is None else next((d.name for d in profile.devices if d.kind == group.kind), "")
    fits = [
        index
        for index, model in enumerate(models)
        if group.kind == "cuda" or (model and (model == named or kind_of_model(model) == group.kind))
    ]
    if not fits:
        kinds = ", ".join(dict.fromkeys(kind_of_model(model) for model in models if model))
        known = f" ({kinds})" if kinds else ""
        here = f"cpu and {len(models)} cuda{known}" if models else "cpu alone"
        raise UsageError(
            f"--devices names {group.kind}, and this machine has {here}; a job starts on devices that are here. "
            f"Name those, such as cpu:2. (`holdtrue plan` takes any kind that a profile has.)"
        )
    each, rest = divmod(group.count, len(fits))
    return [f"cuda:{index}" for at, index in enumerate(fits) for _ in range(each + (at < rest))]


def _kind_of(device: str, model: str, profile: "Profile") -> str:
    """The entry of a device in a profile: that of its model."""
    if device == "cpu":
        return "cpu"
    if not model:
        return alias_of("cuda", profile) or "cuda"
    kinds = {entry.kind: entry for entry in profile.devices}
    own = next((entry.kind for entry in profile.devices if entry.name == model), None)
    named = next((k for k in (kind_of_model(model), "cuda") if k in kinds and not kinds[k].name), None)
    if own is None and named is None:
        there = ", ".join(f"{entry.kind} ({entry.name or 'unnamed'})" for entry in profile.devices)
        raise UsageError(
            f"{device} is of kind {kind_of_model(model)} ({model}), and there is no profile for it; this one has {there}. "
            f"Run `holdtrue profile` here, or leave the device out of --devices."
        )
    return own or named or "cuda"


def alias_of(kind: str, profile: "Profile") -> str | None:
    """The entry that `cuda` means in a profile in which a GPU's kind is its model; None where there is none.

    Raises:
        UsageError: there are several.
    """
    if kind != "cuda" or any(entry.kind == kind for entry in profile.devices):
        return None
    found = [entry.kind for entry in profile.devices if entry.type == "cuda"]
    if len(found) > 1:
        raise UsageError(
            f"--devices names cuda, and the profile has {len(found)} kinds of CUDA devices: {', '.join(found)}. "
            f"Name each, such as {found[0]}:1,{found[1]}:1."
        )
    return found[0] if found else None


def limits_of_seats(limits: Mapping[str, int], seats: Sequence[Seat]) -> dict[str, int]:
    """Limits of memory by kind in the profile (`KIND`, or `KIND:INDEX` for one of its devices), from those of the list.

    >>> seats = [Seat(device=f"cuda:{i}", kind=kind, asked=("cuda", i)) for i, kind in ((0, "h100"), (2, "h100"), (1, "a100"))]
    >>> limits_of_seats({"cuda": 9, "cuda:1": 5, "cuda:2": 7}, seats)
    {'h100': 9, 'a100': 9, 'a100:0': 5, 'h100:1': 7}
    """
    place: dict[tuple[str, int], str] = {}
    count: dict[str, int] = {}
    for seat in seats:
        number = count.get(seat.kind, 0)
        place[seat.asked] = f"{seat.kind}:{number}"
        count[seat.kind] = number + 1
    found: dict[str, int] = {}
    for name, limit in limits.items():
        asked, _, index = name.partition(":")
        kinds = dict.fromkeys(seat.kind for seat in seats if seat.asked[0] == name)
        if kinds:
            found |= dict.fromkeys(kinds, limit)
        elif index.isdecimal() and (asked, int(index)) in place:
            found[place[asked, int(index)]] = limit
        else:  # a kind of the profile, or a stranger, who is refused where limits are read
            found[name] = limit
    return found


def say_shared(seats: Sequence[Seat]) -> tuple[str, ...]:
    """A sentence for each GPU that several workers drive."""
    devices = [seat.device for seat in seats if seat.type == "cuda"]
    return tuple(
        f"{devices.count(device)} workers share {device}: each counts as one with 1/{devices.count(device)} of its speed and "
        f"memory (not measured so)"
        for device in dict.fromkeys(devices)
        if devices.count(device) > 1
    )
