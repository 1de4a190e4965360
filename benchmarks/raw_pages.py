"""What the scripts that write docs/results share: raw files in, lines of a page out, no figure typed."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"


def read(name: str) -> dict[str, Any]:
    """One raw file."""
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "raw" / f"{name}.json").read_text())
    return found


def ratio(r: dict[str, Any]) -> str:
    """Median and spread of a ratio."""
    return f"{r['median']:.3f} ({r['min']:.3f}..{r['max']:.3f})"


def verdict(is_met: bool) -> str:
    """Whether a target is met, in a word."""
    return "met" if is_met else "**missed**"


def row(*cells: object) -> str:
    """One line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def conditions(raw: dict[str, Any]) -> str:
    """How a raw file was measured, in a sentence."""
    v = raw["versions"]
    return f"`{raw['command']}`, {raw['date']}, {raw['device']['cpu']}, {raw['device']['cores']} cores, torch {v['torch']}."


def write(name: str, text: str) -> None:
    """Write a page of docs/results."""
    page = RESULTS / name
    page.write_text(text)
    print(f"wrote {page.relative_to(ROOT)}")
