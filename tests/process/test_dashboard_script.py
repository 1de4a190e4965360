"""The page's script without a browser, where there is node: what comes late, and what does not come."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import holdtrue.dashboard

pytestmark = pytest.mark.process


def test_a_comparison_that_comes_late_or_not_at_all_is_told_and_draws_over_nothing() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node on this machine (Debian: apt install nodejs)")
    page = Path(holdtrue.dashboard.__file__).with_name("page")
    scripts = [str(page / name) for name in ("cluster.js", "app.js")]
    command = [node, str(Path(__file__).with_name("dashboard_page.js")), *scripts]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["left"] == shown["list"]
    assert shown["state"] == "live"
    assert shown["refused"].startswith("there is no run/x.")
    assert shown["failed"].startswith("The dashboard does not answer.")
