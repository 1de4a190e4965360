"""A job as a user asks for it, and the file in which it is written."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

from holdtrue.cluster import Cluster, Job, Rates, check_demands
from holdtrue.errors import UsageError
from holdtrue.launch import check_name, name_of_script
from holdtrue.units import reason_of

_DEFAULT_EXPECTED_S = 3600.0
_LEVELS = ("exact", "portable", "fast")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What somebody submitted; nothing here changes while the job lives.

    Raises:
        UsageError: a field is out of its range; the message gives the rule.
    """

    name: str
    """Name of the job, as `holdtrue status` knows it."""
    script: str
    """Absolute path of the training script."""
    arguments: tuple[str, ...] = ()
    """The script's own arguments."""
    folder: str
    """Folder in which it runs, absolute."""
    virtual_nodes: int | None = None
    """V; None leaves it to the script."""
    global_batch_size: int | None = None
    """B; None leaves it to the script."""
    seed: int | None = None
    """None leaves it to the script."""
    numerics: str | None = None
    """Level; None leaves it to the script."""
    min_devices: int = 1
    """Fewest devices it runs on."""
    max_devices: int = 1
    """Most devices that are of use to it."""
    weight: float = 1.0
    """Weight in fair sharing, priority in static priority."""
    queue: str = "default"
    """Queue that pays for it, where the cluster has queues."""
    percent: int = 100
    """Per cent of one device; below 100 only for jobs of one device."""
    retries: int = 0
    """Times that it is started again after it crashed."""
    expected_s: float = _DEFAULT_EXPECTED_S
    """Seconds that it is expected to take on `max_devices`: an estimate, for policies that go by it."""
    digest_every: int | None = None
    """Steps between digests; None for `holdtrue run`'s."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; None for `holdtrue run`'s."""
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Variables of the environment, besides the scheduler's own."""

    def __post_init__(self) -> None:
        check_name(self.name)
        _check(self.retries >= 0, self, "retries", "0 or more")
        _check(0 < self.expected_s < float("inf"), self, "expected_s", "a positive number of seconds")
        for name in ("virtual_nodes", "global_batch_size"):
            _check((getattr(self, name) or 1) >= 1, self, name, "1 or more")
        for name in ("digest_every", "checkpoint_every", "seed"):
            _check((getattr(self, name) or 0) >= 0, self, name, "0 or more")
        _check(self.numerics in (None, *_LEVELS), self, "numerics", f"one of {', '.join(_LEVELS)}")
        if self.virtual_nodes is not None and self.max_devices > self.virtual_nodes:
            raise UsageError(
                f"job {self.name!r} asks for up to {self.max_devices} devices and has {self.virtual_nodes} virtual nodes; "
                f"devices beyond those have nothing to do. Lower max_devices or raise virtual_nodes."
            )
        self.job_at(self.name, 0.0)  # what the policies ask of a job

    def job_at(self, number: str, arrival_s: float) -> Job:
        """The job that policies see.

        Steps are counted in expected seconds at full demand, since those of a script are known to it alone.
        """
        return Job(
            id=number,
            arrival_s=arrival_s,
            work=self.expected_s * self.percent / 100,
            rates=Rates(by_type=(("*", ((self.max_devices, 1.0),)),)),
            min_devices=self.min_devices,
            max_devices=self.max_devices,
            weight=self.weight,
            queue=self.queue,
            percent=self.percent,
            kind=self.name,
        )


def _check(holds: bool, request: JobRequest, name: str, rule: str) -> None:
    if not holds:
        value = getattr(request, name)
        raise UsageError(
            f"job {request.name!r} has {name} {value!r}; it must be {rule}. Correct the job's file."
        )


def check_request(request: JobRequest, cluster: Cluster) -> None:
    """Refuse a job that the cluster could never run.

    Raises:
        UsageError: it asks for more devices than there are, for a queue that is not there, or its script is missing.
    """
    check_demands([request.job_at(request.name, 0.0)], cluster)
    known = [queue.name for queue in cluster.queues] or ["default"]
    if request.queue not in known:
        raise UsageError(
            f"job {request.name!r} is for the queue {request.queue!r}, and the cluster has {', '.join(known)}. "
            f"Name one of those, or start the cluster with --queue {request.queue}=N."
        )
    if not Path(request.script).is_file():
        raise UsageError(
            f"job {request.name!r} runs {request.script}, and there is no such file. Correct `script`; it is looked "
            f"for from the folder of the job's file."
        )
    if not Path(request.folder).is_dir():
        raise UsageError(
            f"job {request.name!r} runs in {request.folder}, and there is no such folder. Correct `folder`."
        )


# --- the file ------------------------------------------------------------------------------------------

_NUMBERS = ("weight", "expected_s")
_WHOLE = (
    *("virtual_nodes", "global_batch_size", "seed", "min_devices", "max_devices", "percent", "retries"),
    *("digest_every", "checkpoint_every"),
)
_TEXTS = ("name", "script", "folder", "numerics", "queue")
KEYS: tuple[str, ...] = tuple(f.name for f in fields(JobRequest))
"""Keys of a job's file."""


def read_job_file(path: Path) -> JobRequest:
    """The job in a TOML file.

    Raises:
        UsageError: it cannot be read, is no TOML, or has a key or a value that a job does not have; the message
            gives the line.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read ({reason_of(error)}); a job is a TOML file. Check the path."
        ) from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}; a job's file is TOML. Correct it.") from None
    where = _Lines(path, text)
    for key, value in values.items():
        _check_value(where, key, value)
    if "script" not in values:
        raise UsageError(f'{path} names no script, and a job runs one. Write script = "train.py".')
    base = path.absolute().parent
    values["script"] = str(base / values["script"])
    values["folder"] = str(base / values.get("folder", "."))
    values["arguments"] = tuple(values.get("arguments", ()))
    values.setdefault("name", name_of_script(values["script"]))
    values.setdefault("max_devices", values.get("min_devices", 1))
    try:
        return JobRequest(**values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


@final
@dataclass(frozen=True, slots=True)
class _Lines:
    path: Path
    text: str

    def of(self, key: str) -> str:
        """`FILE, line L`, where the key is written."""
        pattern = re.compile(rf"""\s*(\[\s*)?["']?{re.escape(key)}["']?\s*(=|\.|\])""")
        for number, line in enumerate(self.text.splitlines(), 1):
            if pattern.match(line):
                return f"{self.path}, line {number}"
        return str(self.path)


def _check_value(where: _Lines, key: str, value: Any) -> None:  # Any: as TOML has it
    if key not in KEYS:
        raise UsageError(
            f"{where.of(key)}: there is no key {key!r}; a job has {', '.join(KEYS)}. Correct or remove it."
        )
    rule = ""
    if key in _WHOLE and (not isinstance(value, int) or isinstance(value, bool)):
        rule = "a whole number"
    elif key in _NUMBERS and (not isinstance(value, int | float) or isinstance(value, bool)):
        rule = "a number"
    elif key in _TEXTS and not isinstance(value, str):
        rule = 'a text, such as "train.py"'
    elif key == "arguments" and not (isinstance(value, list) and all(isinstance(x, str) for x in value)):
        rule = 'a list of texts, such as ["--epochs", "3"]'
    elif key == "environment" and not (
        isinstance(value, dict) and all(isinstance(x, str) for x in value.values())
    ):
        rule = 'a table of texts, such as { OMP_NUM_THREADS = "1" }'
    if rule:
        raise UsageError(f"{where.of(key)}: {key} is {value!r}; it must be {rule}. Correct it.")


def request_to_values(request: JobRequest) -> dict[str, Any]:  # Any: JSON values
    """The request as JSON values."""
    values = {name: getattr(request, name) for name in KEYS}
    return values | {"arguments": list(request.arguments), "environment": dict(request.environment)}


def request_from_values(values: Mapping[str, Any]) -> JobRequest:  # Any: JSON values
    """The request of `request_to_values`, checked as a file is.

    Raises:
        UsageError: a key is unknown or missing, or a value is out of its range.
    """
    where = _Lines(Path("the job"), "")
    for key, value in values.items():
        if value is not None:
            _check_value(where, key, value)
    try:
        return JobRequest(**{**values, "arguments": tuple(values.get("arguments", ()))})
    except TypeError as error:
        raise UsageError(f"the job is not whole ({error}). Submit it with `holdtrue submit FILE`.") from None
