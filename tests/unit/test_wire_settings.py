"""Settings between launcher and workers."""

from pathlib import Path

import pytest

from holdtrue.errors import UsageError
from holdtrue.wire import (
    CONFIG_KEYS,
    SETTING_VARIABLES,
    decode_cli_settings,
    encode_settings,
    parse_setting,
    read_config,
)


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


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "run.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_config_file_gives_settings_by_their_names_and_the_time_out_as_its_option_too(tmp_path) -> None:
    text = 'seed = 3\ntimeout = 9\nrebalance = false\nrun_dir = "runs/ä"\n'
    assert read_config(write(tmp_path, text)) == {
        "seed": 3,
        "timeout_s": 9,
        "rebalance": False,
        "run_dir": "runs/ä",
    }
    assert read_config(write(tmp_path, "timeout_s = 1.5\n")) == {"timeout_s": 1.5}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("checkpoint_every = 'x'", "checkpoint_every = 'x'; checkpoint_every is a whole number"),
        ("checkpoint_every = 1.5", "checkpoint_every = 1.5; checkpoint_every is a whole number"),
        ("max_steps = true", "max_steps = true; max_steps is a whole number"),
        ("threads = '2'", "threads = '2'; threads is a whole number, such as `threads = 4`."),
        ("keep_checkpoints = [1]", "keep_checkpoints = [1]; keep_checkpoints is a whole number"),
        ("timeout = 'x'", "timeout = 'x'; timeout is a number"),
        ("timeout_s = false", "timeout_s = false; timeout_s is a number"),
        ("run_dir = 5", "run_dir = 5; run_dir is a text in quotes"),
        ("trace = 'no'", "trace = 'no'; trace is true or false, without quotes."),
        ("overlap = 1", "overlap = 1; overlap is true or false"),
    ],
)
def test_a_value_of_another_kind_in_a_config_file_is_refused_with_the_rule(tmp_path, line, words) -> None:
    with pytest.raises(UsageError) as refusal:
        read_config(write(tmp_path, line))
    assert words in str(refusal.value)
    assert str(refusal.value).endswith("Write it so, or remove it.")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"# \xff\nseed = 1\n", "is not TOML: 'utf-8' codec"),
        ("seed: 1", "is not TOML"),
        ("workers = 2", "unknown keys ['workers']; the keys are ['checkpoint_every', 'device', "),
        ("timeout = 1\ntimeout_s = 1", "has timeout and timeout_s; they are one setting"),
    ],
)
def test_a_config_file_of_another_form_is_refused(tmp_path, text, words) -> None:
    with pytest.raises(UsageError) as refusal:
        read_config(write(tmp_path, text))
    assert words in str(refusal.value)


def test_every_key_that_the_messages_list_is_one(tmp_path) -> None:
    texts = {"device", "non_finite", "numerics", "run_dir"}
    for key in CONFIG_KEYS:
        value = '"x"' if key in texts else "true" if key == "rebalance" else "1"
        assert len(read_config(write(tmp_path, f"{key} = {value}"))) == 1
