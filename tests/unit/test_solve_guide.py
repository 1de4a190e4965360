"""docs/guide/mixed-devices.md is executed: its profile is read, its commands print what it shows."""

import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from holdtrue.cli._plan import add_to
from holdtrue.errors import HoldtrueError

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "mixed-devices.md"
TEXT = GUIDE.read_text(encoding="utf-8")
SCREENS = re.findall(r"```console\n\$ holdtrue ([^\n]*)\n(.*?)\n```", TEXT, re.DOTALL)


def test_the_guide_shows_three_screens() -> None:
    assert len(SCREENS) == 3


@pytest.mark.parametrize(("command", "shown"), SCREENS)
def test_a_command_of_the_guide_prints_what_the_guide_shows(
    command: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = re.search(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert profile is not None
    (tmp_path / "bert.json").write_text(profile[1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.callback()(lambda: None)
    add_to(app)
    result = CliRunner().invoke(app, command.split(), env={"COLUMNS": "100"})
    printed = f"error: {result.exception}" if isinstance(result.exception, HoldtrueError) else result.stdout
    assert [line.rstrip() for line in printed.strip().splitlines()] == shown.splitlines()
