"""Profile files: JSON to read, correct and merge. docs/guide/mixed-devices.md documents the format."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdtrue.errors import UsageError

from ._profile import DeviceProfile, PassPoint, Profile

PROFILE_VERSION = 1
"""Version of the file format; a reader refuses any other."""

# key of the file -> (field, types that JSON may give); an entry with "!" must be there.
_PROFILE_KEYS = {
    "format!": ("", (str,)),
    "version!": ("", (int,)),
    "model!": ("", (dict,)),
    "numerics": ("numerics", (str,)),
    "gradient_bytes": ("gradient_bytes", (int,)),
    "virtual_nodes": ("virtual_nodes", (int, type(None))),
    "global_batch_size": ("global_batch_size", (int, type(None))),
    "devices!": ("", (dict,)),
}
_MODEL_KEYS = {"name!": ("model_name", (str,)), "hash": ("model_hash", (str, type(None)))}
_DEVICE_KEYS = {
    "name": ("name", (str,)),
    "type": ("type", (str,)),
    "torch!": ("torch_version", (str,)),
    "threads": ("threads", (int,)),
    "date!": ("date", (str,)),
    "memory_bytes": ("memory_bytes", (int, type(None))),
    "fixed_seconds": ("fixed_s", (int, float)),
    "lone_factor": ("lone_factor", (int, float)),
    "exchange_bytes_per_second": ("exchange_bytes_per_s", (int, float, type(None))),
    "exchange_latency_seconds": ("exchange_latency_s", (int, float)),
    "points!": ("", (list,)),
}
_POINT_KEYS = {
    "batch!": ("batch_size", (int,)),
    "seconds!": ("seconds", (int, float)),
    "peak_bytes": ("peak_bytes", (int, type(None))),
    "spread": ("spread", (int, float)),
}
_Keys = Mapping[str, tuple[str, tuple[type, ...]]]


def _read_object(values: Any, keys: _Keys, where: str) -> dict[str, Any]:  # Any: JSON values
    """Fields of one JSON object: unknown and missing keys and wrong types are errors that name the place."""
    if not isinstance(values, dict):
        raise UsageError(f"{where} is {values!r}; it must be a JSON object. Correct the file.")
    allowed = {key.rstrip("!"): spec for key, spec in keys.items()}
    unknown = sorted(set(values) - set(allowed))
    missing = sorted({key[:-1] for key in keys if key.endswith("!")} - set(values))
    if unknown or missing:
        raise UsageError(
            f"{where} has unknown keys {unknown} and lacks {missing}; the keys are {', '.join(allowed)}. "
            f"Correct the file."
        )
    fields: dict[str, Any] = {}
    for key, value in values.items():
        field, types = allowed[key]
        if not isinstance(value, types) or isinstance(value, bool):
            names = " or ".join("null" if t is type(None) else t.__name__ for t in types)
            raise UsageError(f"{where}: {key} is {value!r}; it must be {names}. Correct the file.")
        if field:
            fields[field] = value
    return fields


def _read_device(kind: str, values: Any, where: str) -> DeviceProfile:  # Any: JSON values
    fields = _read_object(values, _DEVICE_KEYS, where)
    points = tuple(
        PassPoint(**_read_object(point, _POINT_KEYS, f"{where}, point {index}"))
        for index, point in enumerate(values["points"])
    )
    return DeviceProfile(kind=kind, points=points, **fields)


def parse_profile(text: str, *, origin: str = "the profile") -> Profile:
    """The profile that `format_profile` wrote.

    Args:
        text: Content of a profile file.
        origin: Name of the file, for messages.

    Raises:
        UsageError: the text is not a profile of this version; the message names the place.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{origin} is not JSON ({error}); a profile is one JSON object. Write it with `holdtrue profile`."
        ) from error
    if isinstance(values, dict) and values.get("format") != "holdtrue.profile":
        raise UsageError(
            f'{origin} has format {values.get("format")!r}; a profile has "holdtrue.profile". Write it with '
            f"`holdtrue profile`."
        )
    if isinstance(values, dict) and values.get("version") != PROFILE_VERSION:
        raise UsageError(
            f"{origin} is a profile of version {values.get('version')!r}; this holdtrue reads version "
            f"{PROFILE_VERSION}. "
            f"Measure again with `holdtrue profile`."
        )
    fields = _read_object(values, _PROFILE_KEYS, origin) | _read_object(
        values["model"], _MODEL_KEYS, f"{origin}, model"
    )
    devices = tuple(
        _read_device(kind, entry, f"{origin}, device {kind}") for kind, entry in values["devices"].items()
    )
    return Profile(devices=devices, **fields)


def _write_fields(value: object, keys: _Keys) -> dict[str, object]:
    return {key.rstrip("!"): getattr(value, field) for key, (field, _) in keys.items() if field}


def format_profile(profile: Profile) -> str:
    """The profile as the text of a file; `parse_profile` reads it back, equal.

    >>> points = (PassPoint(batch_size=8, seconds=0.1, peak_bytes=1024),)
    >>> cpu = DeviceProfile(kind="cpu", torch_version="2.13.0", date="2026-11-23", points=points)
    >>> profile = Profile(model_name="digits", devices=(cpu,))
    >>> parse_profile(format_profile(profile)) == profile
    True
    """
    top = _write_fields(profile, _PROFILE_KEYS)
    devices = {
        device.kind: _write_fields(device, _DEVICE_KEYS)
        | {"points": [_write_fields(point, _POINT_KEYS) for point in device.points]}
        for device in profile.devices
    }
    values = {
        "format": "holdtrue.profile",
        "version": PROFILE_VERSION,
        "model": _write_fields(profile, _MODEL_KEYS),
    }
    return json.dumps(values | top | {"devices": devices}, indent=2, allow_nan=False) + "\n"


def read_profile(path: str | os.PathLike[str]) -> Profile:
    """The profile in a file.

    Raises:
        UsageError: the file cannot be read, or is not a profile.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise UsageError(
            f"the profile {os.fspath(path)} cannot be read ({reason}); --profile names a file that "
            f"`holdtrue profile` wrote. Check the path."
        ) from error
    return parse_profile(text, origin=os.fspath(path))


def write_profile(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Writes the profile aside and renames it, so that no reader sees half a file."""
    target = Path(path)
    aside = target.with_name(f".{target.name}.tmp")
    aside.write_text(format_profile(profile), encoding="utf-8")
    aside.replace(target)


def merge_profiles(profiles: Sequence[Profile]) -> Profile:
    """One profile with the devices of all: kinds measured on different machines, for the same model.

    Args:
        profiles: At least one; their kinds differ.

    Raises:
        UsageError: they are of unlike models, numerics or torch versions, or a kind stands twice.
    """
    first = profiles[0]
    kinds = [device.kind for profile in profiles for device in profile.devices]
    doubled = sorted({kind for kind in kinds if kinds.count(kind) > 1})
    if len(profiles) > 1 and doubled:
        raise UsageError(
            f"{', '.join(doubled)} {'is' if len(doubled) == 1 else 'are'} in more than one of the profiles; each kind has one "
            f"entry. Leave a profile out, or rename a kind in its file."
        )
    for other in profiles[1:]:
        for what in (
            "model_name",
            "model_hash",
            "numerics",
            "gradient_bytes",
            "virtual_nodes",
            "global_batch_size",
        ):
            mine, theirs = getattr(first, what), getattr(other, what)
            if mine != theirs:
                raise UsageError(
                    f"two profiles have {what} {mine!r} and {theirs!r}; profiles of one job are of one model "
                    f"and one "
                    f"level of numerics. Measure both kinds with the same script."
                )
    return Profile(
        model_name=first.model_name,
        model_hash=first.model_hash,
        numerics=first.numerics,
        gradient_bytes=first.gradient_bytes,
        virtual_nodes=first.virtual_nodes,
        global_batch_size=first.global_batch_size,
        devices=tuple(device for profile in profiles for device in profile.devices),
    )
