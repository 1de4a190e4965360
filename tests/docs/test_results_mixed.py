"""The page of unequal devices is what its script makes of the raw files."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_of_unequal_devices_is_what_the_script_makes_of_the_raw_files() -> None:
    rendered = runpy.run_path(str(ROOT / "benchmarks" / "render_mixed.py"))["page"]()
    assert (ROOT / "docs" / "results" / "mixed-devices.md").read_text() == rendered
