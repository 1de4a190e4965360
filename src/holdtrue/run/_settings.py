"""Settings of a run: what is in force, and where each value came from.

Precedence: command line > environment (HOLDTRUE_*) > --config file > script.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from holdtrue.errors import UsageError
from holdtrue.plan import Plan
from holdtrue.wire import SETTING_VARIABLES, decode_cli_settings, parse_setting, read_config

from ._checks import check_arguments

NonFinite = Literal["stop", "skip", "allow"]
DeviceChoice = Literal["auto", "cpu", "cuda"]
PLAN_NAMES = ("virtual_nodes", "global_batch_size", "seed", "numerics")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a run is carried out; nothing here changes the bits of a step.

    Raises:
        UsageError: a value is out of its range.
    """

    run_dir: str | None = None
    """Folder for records and checkpoints; None keeps none."""
    checkpoint_every: int = 100
    """Steps between checkpoints; 0 writes none. One more is written at the end of each `run.steps`."""
    keep_checkpoints: int = 3
    """Newest checkpoints that are kept, at least 1."""
    digest_every: int = 100
    """Steps between digests of the training state, which replicas compare; 0 for none."""
    threads: int = 1
    """Intra-op threads of a CPU device; part of what makes two devices of one type."""
    timeout_s: float = 300.0
    """Bound of every wait for another worker, in seconds."""
    non_finite: NonFinite = "stop"
    """What a loss that is not finite does: stop the run, skip the update, or be allowed."""
    max_steps: int = 0
    """Steps after which the run ends as if its epochs were over; 0 for no limit."""
    resume: bool = False
    """Go on from the newest checkpoint of the run directory."""
    trace: bool = False
    """Record each virtual node's loss and an input fingerprint with every digest."""
    device: str = "auto"
    """`cpu`, `cuda` or `auto`: cuda where there is one."""
    overlap: bool = True
    """Whether the exchange overlaps with the last backward."""
    rebalance: bool = False
    """Elastic: whether measured pass times move virtual nodes while the job runs."""
    costs: str = ""
    """Profile and memory limits that the mapping came from, as JSON; empty where there is none."""
    hold_at: str = ""
    """Elastic: steps, parted by commas, before which the run waits for its workers to change; for proofs."""
    device_percent: int = 100
    """Per cent of the device's time that the run takes, by resting after each step; the scheduler sets it."""
    expected: str = ""
    """What the profile that the mapping came from was measured with, as JSON; empty where there is none."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where each value that is not the default came from."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "digest_every", "max_steps"):
            if getattr(self, name) < 0:
                raise UsageError(
                    f"{name} is {getattr(self, name)}; it is a number of steps, 0 or more. Pass such a number."
                )
        for name in ("keep_checkpoints", "threads"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"{name} is {getattr(self, name)}; it must be 1 or more. Pass such a number."
                )
        if not 1 <= self.device_percent <= 100:
            raise UsageError(
                f"device_percent is {self.device_percent}; it is from 1 to 100 per cent. Pass such a number."
            )
        if not self.timeout_s > 0:
            raise UsageError(
                f"timeout_s is {self.timeout_s}; it is a number of seconds above 0. Pass such a number."
            )
        if self.resume and self.run_dir is None:
            raise UsageError(
                "resume is on and the run has no run directory; a run goes on from the checkpoints in one. "
                "Pass --run-dir, or run_dir=... to holdtrue.init."
            )
        for name, choices in (("non_finite", get_args(NonFinite)), ("device", get_args(DeviceChoice))):
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{name} is {getattr(self, name)!r}; the choices are {', '.join(choices)}. Pass one of them."
                )


def resolve_settings(
    script: Mapping[str, Any],  # Any: what the script passed to init, checked below
    env: Mapping[str, str] | None = None,
) -> tuple[Plan, Settings]:
    """The plan and settings in force.

    Args:
        script: Values that `holdtrue.init` was given.
        env: Environment variables; the process's own by default.

    Raises:
        PlanError, UsageError: a value is out of its range, or a name is unknown.
    """
    check_arguments(script)
    env = os.environ if env is None else env
    cli = decode_cli_settings(env)
    merged: dict[str, Any] = dict(script)
    origins = dict.fromkeys(script, "script")
    environment = {
        name: parse_setting(name, env[variable])
        for name, variable in SETTING_VARIABLES.items()
        if env.get(variable) and name not in cli
    }
    config = cli.get("config") or environment.get("config")
    for origin, values in (
        ("config file", read_config(Path(str(config))) if config else {}),
        ("environment", environment),
        ("command line", cli),
    ):
        for name, value in values.items():
            if name != "config":
                merged[name], origins[name] = value, origin
    plan = Plan(
        virtual_nodes=merged["virtual_nodes"],
        global_batch_size=merged["global_batch_size"],
        seed=merged["seed"],
        numerics=merged["numerics"],
        weight_unit=float(merged["weight_unit"] or 0.0),
        buffers=tuple((merged["buffers"] or {}).items()),
    )
    names = {f.name for f in fields(Settings)} - {"origins"}
    settings = Settings(**{n: v for n, v in merged.items() if n in names and v is not None}, origins=origins)
    _check_script_plan(settings.expected, script)
    return plan, settings


def _check_script_plan(
    expected: str, script: Mapping[str, Any]
) -> None:  # Any: what the script passed to init
    """Refuse a plan that a profile remembers and the script has changed since: the mapping would be for another."""
    remembered: dict[str, int] = json.loads(expected).get("script", {}) if expected else {}
    for name, value in remembered.items():
        if script[name] != value:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"the script has {name} {script[name]}, and it had {value} when its profile was measured; the mapping was "
                f"made for that plan. Give {option} {script[name]}, or measure again with `holdtrue profile`."
            )
