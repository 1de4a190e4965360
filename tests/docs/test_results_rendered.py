"""Pages of results are what their scripts make of the raw files."""

import re
import runpy

import pytest
from pages import ROOT


@pytest.mark.parametrize(
    ("script", "page"),
    [
        ("speed", "speed"),
        ("mixed", "mixed-devices"),
        ("elastic", "elastic"),
        ("portable", "portable"),
        ("live_cluster", "live-cluster"),
        ("elasticity", "elasticity-simulated"),
    ],
)
def test_a_page_is_what_its_script_makes_of_the_raw_files(
    script: str, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    rendered = runpy.run_path(str(ROOT / "benchmarks" / f"render_{script}.py"))["page"]()
    assert (ROOT / "docs" / "results" / f"{page}.md").read_text() == rendered


def test_no_result_is_typed_between_the_parts_of_the_simulated_page() -> None:
    text = (ROOT / "docs" / "results" / "elasticity-simulated.md").read_text()
    own_words = re.sub(r"<!-- [\w-]+: .*?<!-- end -->", "", text, flags=re.DOTALL)
    assert re.findall(r"[^\s(|]*\d[^\s|]* (?:%|points|times as)", own_words) == []
    assert "|" not in own_words, "tables are made from the raw files"
