"""Settings of a job: their names, their environment variables, their values."""

import json
from collections.abc import Mapping
from typing import Literal

from holdtrue.errors import UsageError

Setting = str | int | float | bool
"""A value of a setting."""

Kind = Literal["int", "float", "text", "flag"]

_KINDS: dict[str, Kind] = {
    "virtual_nodes": "int",
    "global_batch_size": "int",
    "seed": "int",
    "numerics": "text",
    "run_dir": "text",
    "checkpoint_every": "int",
    "keep_checkpoints": "int",
    "digest_every": "int",
    "threads": "int",
    "timeout_s": "float",
    "non_finite": "text",
    "max_steps": "int",
    "resume": "flag",
    "trace": "flag",
    "overlap": "flag",
    "device": "text",
    "expected": "text",
    "hold_at": "text",
    "rebalance": "flag",
    "costs": "text",
    "device_percent": "int",
    "config": "text",
}

SETTING_VARIABLES: dict[str, str] = {name: f"HOLDTRUE_{name.upper()}" for name in _KINDS}
"""Environment variable of each setting, by the setting's name."""

CLI_VARIABLE = "HOLDTRUE_CLI"
"""Environment variable in which the launcher tells the workers what its command line set: a JSON object."""

SURVEY_VARIABLE = "HOLDTRUE_NUMERICS_SURVEY"
"""Environment variable with a file to which portable workers write operators that are not covered, one JSON line each,
instead of refusing them."""

_RULES: dict[Kind, str] = {
    "int": "a whole number",
    "float": "a number",
    "text": "a text",
    "flag": "0 or 1",
}


def parse_setting(name: str, text: str) -> Setting:
    """The value of setting `name` written as `text`, as environment variables have it.

    Raises:
        UsageError: the text is not of the setting's kind, or there is no such setting.

    >>> parse_setting("virtual_nodes", "16"), parse_setting("resume", "1"), parse_setting("timeout_s", "1.5")
    (16, True, 1.5)
    """
    kind = kind_of(name)
    try:
        match kind:
            case "int":
                return int(text)
            case "float":
                return float(text)
            case "flag":
                return {"0": False, "1": True}[text.strip()]
            case "text":
                return text
    except (ValueError, KeyError):
        raise UsageError(
            f"{SETTING_VARIABLES[name]} is {text!r}; {name} is {_RULES[kind]}. Set it so, or unset it."
        ) from None


def encode_settings(settings: Mapping[str, Setting]) -> dict[str, str]:
    """Environment variables that give workers the settings of the command line.

    Each has its own variable, for whoever reads only that, and all are in `HOLDTRUE_CLI`, from which
    a worker learns that they came from the command line.

    Raises:
        UsageError: there is no such setting.

    >>> encode_settings({"seed": 3, "resume": True})
    {'HOLDTRUE_SEED': '3', 'HOLDTRUE_RESUME': '1', 'HOLDTRUE_CLI': '{"seed": 3, "resume": true}'}
    """
    for name in settings:
        kind_of(name)
    single = {
        SETTING_VARIABLES[name]: str(int(value)) if isinstance(value, bool) else str(value)
        for name, value in settings.items()
    }
    return single | {CLI_VARIABLE: json.dumps(dict(settings))}


def decode_cli_settings(env: Mapping[str, str]) -> dict[str, Setting]:
    """The settings that the launcher's command line set, by name; empty without a launcher.

    Raises:
        UsageError: the variable is not a JSON object of known settings.

    >>> decode_cli_settings({"HOLDTRUE_CLI": '{"seed": 3}'})
    {'seed': 3}
    """
    text = env.get(CLI_VARIABLE)
    if text is None:
        return {}
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict) or not all(isinstance(value, Setting) for value in values.values()):
        raise UsageError(
            f"{CLI_VARIABLE} is {text!r}; `holdtrue run` writes a JSON object of settings there. Unset it."
        )
    for name in values:
        kind_of(name)
    return values


def held_note(step: int) -> str:
    """What a run says that is held before `step` (setting `hold_at`); whoever drives it waits for this."""
    return f"held before step {step} until the workers change"


def kind_of(name: str) -> Kind:
    """What values of a setting are.

    Raises:
        UsageError: there is no such setting.
    """
    if name not in _KINDS:
        raise UsageError(
            f"there is no setting {name!r}; the settings are {', '.join(_KINDS)}. Use one of them."
        )
    return _KINDS[name]
