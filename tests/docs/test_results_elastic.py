"""The page of elastic membership is what its script makes of the raw files."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_of_elastic_membership_is_what_the_script_makes_of_the_raw_files() -> None:
    rendered = runpy.run_path(str(ROOT / "benchmarks" / "render_elastic.py"))["page"]()
    assert (ROOT / "docs" / "results" / "elastic.md").read_text() == rendered
