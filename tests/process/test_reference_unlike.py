"""`holdtrue verify --reference` passes under unlike settings, and fails where the arithmetic is another."""

import os
import subprocess
import sys

import pytest

from holdtrue.numerics import engines
from holdtrue.numerics._check import unlike_settings

pytestmark = [pytest.mark.process, pytest.mark.slow]


def verify(**variables: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "holdtrue", "verify", "--reference"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("variables", [{}, *unlike_settings()], ids=["as it is", "generic", "reference"])
def test_the_reference_trainings_pass_as_on_unlike_processors(variables: dict[str, str]) -> None:
    status, text = verify(**variables)
    assert status == 0, text
    assert f"engine {variables.get('HOLDTRUE_NUMERICS_ENGINE', engines()[-1])}" in text
    assert text.count("PASS") == 4
