"""The page of serving is made of its raw file."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_serving_is_what_the_script_makes_of_the_raw_file() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import serve

        raw = json.loads((ROOT / "benchmarks" / "raw" / "serve.json").read_text())
        assert serve.render(raw) == (ROOT / "docs" / "results" / "serving.md").read_text()
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
