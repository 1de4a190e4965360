"""What a machine must know of a job to run a worker of it: said by the launcher, passed on by the controller."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, final

from holdtrue.errors import GroupError
from holdtrue.wire import Setting, encode_settings, escape_text

from ._job import DEVICES, JobSpec


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JobDescription:
    """What a worker of the job runs, wherever it is."""

    name: str
    script: str
    """Path as the launcher was given it, or the name of a module."""
    arguments: tuple[str, ...]
    is_module: bool
    device: str
    """`cpu`, `cuda` or `auto`."""
    threads: int
    group_timeout_s: float
    settings: Mapping[str, Setting]
    """Settings of the launcher's command line, the run directory among them."""


def describe_job(spec: JobSpec) -> JobDescription:
    """The description of a job. Pure."""
    return JobDescription(
        name=spec.name,
        script=spec.script,
        arguments=spec.arguments,
        is_module=spec.is_module,
        device=spec.device,
        threads=spec.threads,
        group_timeout_s=spec.group_timeout_s,
        settings={
            name: str(Path(str(value)).absolute()) if name == "run_dir" else value
            for name, value in spec.settings.items()
        },
    )


def description_to_json(description: JobDescription) -> dict[str, Any]:  # Any: JSON values
    """The description as JSON values."""
    return asdict(description)


_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "script", "device"), str),
    **dict.fromkeys(("arguments", "settings"), (list, tuple, dict)),
    "is_module": bool,
    "threads": int,
    "group_timeout_s": (int, float),
}


def description_from_json(values: Mapping[str, Any]) -> JobDescription:  # Any: JSON values
    """The description that came over the network, checked.

    Raises:
        GroupError: it is none.
    """
    names = {field.name for field in fields(JobDescription)}
    fits = set(values) == names and all(isinstance(values[name], kind) for name, kind in _TYPES.items())
    if (
        not fits
        or not all(isinstance(text, str) for text in values["arguments"])
        or not isinstance(values["settings"], dict)
        or values["device"] not in DEVICES
        or values["threads"] < 1
    ):
        raise GroupError(
            f"the controller describes its job by {escape_text(str(sorted(values)))[:200]}, which this version cannot read; a "
            f"description has {', '.join(sorted(names))}. Use the same holdtrue for all processes of a job."
        )
    encode_settings(values["settings"])  # refuses unknown names
    return JobDescription(**{**values, "arguments": tuple(values["arguments"])})


def spec_for_host(description: JobDescription, *, device: str | None, run_dir: Path) -> JobSpec:
    """The job as a host that joins it sees it. Pure.

    Args:
        description: The job's.
        device: What the user named here: a kind, or one device such as `cuda:1`; None for the job's kind.
        run_dir: Folder in which logs are written here.
    """
    kind = device.partition(":")[0] if device is not None else description.device
    return JobSpec(
        script=description.script,
        arguments=description.arguments,
        is_module=description.is_module,
        run_dir=run_dir,
        name=description.name,
        device=kind,
        threads=description.threads,
        group_timeout_s=description.group_timeout_s,
        settings=description.settings,
    )
