"""Settings between launcher and workers."""

import pytest

from holdtrue.errors import UsageError
from holdtrue.wire import SETTING_VARIABLES, decode_cli_settings, encode_settings, parse_setting


def test_settings_come_back_with_their_types() -> None:
    settings = {"seed": 3, "timeout_s": 1.5, "resume": True, "trace": False, "run_dir": "runs/a b"}
    env = encode_settings(settings)
    assert decode_cli_settings(env) == settings
    assert {name: parse_setting(name, env[SETTING_VARIABLES[name]]) for name in settings} == settings


def test_without_a_launcher_the_command_line_gave_nothing() -> None:
    assert decode_cli_settings({}) == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [("seed", "x"), ("seed", "1.5"), ("timeout_s", "soon"), ("resume", "yes"), ("colour", "red")],
)
def test_a_wrong_setting_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=name):
        parse_setting(name, text)


@pytest.mark.parametrize("text", ["", "[]", '{"seed": [1]}', '{"seed": null}', '{"colour": 1}'])
def test_a_command_line_variable_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        decode_cli_settings({"HOLDTRUE_CLI": text})
