"""The file of `--config`: settings in TOML, each of its kind."""

import tomllib
from pathlib import Path

from holdtrue.errors import UsageError
from holdtrue.units import cut_text

from ._settings import SETTING_VARIABLES, Kind, Setting, kind_of

OPTION_KEYS = {"timeout": "timeout_s"}
"""Settings whose option has another name: a file may use either."""
_COMMANDS_OWN = frozenset({"config", "resume", "expected", "costs", "hold_at"})
"""Settings that no file gives: they belong to one start."""
_UNLISTED = frozenset({"trace", "overlap", "device_percent"})
"""Settings for `holdtrue verify`, measurements and the scheduler: a file may give them, and nobody is sent there."""
CONFIG_KEYS = tuple(
    sorted(
        {name: key for key, name in OPTION_KEYS.items()}.get(name, name)
        for name in SETTING_VARIABLES
        if name not in _COMMANDS_OWN | _UNLISTED
    )
)
"""Keys of the file, as its messages and the help list them."""

_RULES: dict[Kind, str] = {
    "int": "a whole number, such as `{key} = 4`",
    "float": "a number, such as `{key} = 2.5`",
    "text": 'a text in quotes, such as `{key} = "..."`',
    "flag": "true or false, without quotes",
}


def read_config(path: Path) -> dict[str, Setting]:
    """The settings in a file, by their names.

    Args:
        path: A TOML file with one `key = value` a line.

    Raises:
        UsageError: it cannot be read, a key is unknown, or a value is of another kind than its setting.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"the config file {path} cannot be read ({error.strerror}); it must be a readable TOML file. Pass another --config."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the config file {path} is not TOML: {error}; it has lines such as `seed = 1`, in UTF-8. Write it so."
        ) from error
    known = set(SETTING_VARIABLES) - _COMMANDS_OWN | set(OPTION_KEYS)
    unknown = sorted(set(values) - known)
    if unknown:
        raise UsageError(
            f"the config file {path} has unknown keys {unknown}; the keys are {list(CONFIG_KEYS)}, and other options are for "
            f"the command line alone. Remove or rename them."
        )
    twice = [key for key, name in OPTION_KEYS.items() if key in values and name in values]
    if twice:
        raise UsageError(
            f"the config file {path} has {twice[0]} and {OPTION_KEYS[twice[0]]}; they are one setting. Remove one of them."
        )
    return {OPTION_KEYS.get(key, key): _checked(path, key, value) for key, value in values.items()}


_TYPES: dict[Kind, type | tuple[type, ...]] = {"int": int, "float": (int, float), "text": str, "flag": bool}


def _checked(path: Path, key: str, value: object) -> Setting:
    kind = kind_of(OPTION_KEYS.get(key, key))
    if (
        isinstance(value, str | int | float)
        and isinstance(value, _TYPES[kind])
        and isinstance(value, bool) == (kind == "flag")
    ):
        return value
    shown = {True: "true", False: "false"}[value] if isinstance(value, bool) else cut_text(repr(value), 80)
    raise UsageError(
        f"the config file {path} has {key} = {shown}; {key} is {_RULES[kind].format(key=key)}. Write it so, or remove it."
    )
