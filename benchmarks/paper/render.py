"""The page docs/results/virtual-nodes.md and its picture, from the raw files: no figure on it is typed.

    python benchmarks/paper/render.py

Part 3 is shown as not yet measured until its raw file exists. Conclusions are conditions on the figures: other
raw files give other sentences.
"""

import json
import textwrap
from pathlib import Path

from picture import draw_picture
from section_batches import batches_section
from section_cost import cost_section
from section_frame import limits_section, setting_section
from section_hardware import hardware_section
from tables import Raw

ROOT = Path(__file__).resolve().parents[2]
RAW = ROOT / "benchmarks/raw"
PAGE = ROOT / "docs/results/virtual-nodes.md"
PICTURE = PAGE.with_suffix(".svg")
NAMES = ("tuning", "hardware", "batches", "cost")
INTRODUCTION = """\
The first experiment of the VirtualFlow paper, ours and on a CPU: the same hyper-parameters on 1 to 8 workers, global
batches beyond a memory limit, and what virtual nodes cost. VirtualFlow's own figures stand beside ours; they come from
other models, data and devices, so compare the pattern and not the values."""


def read_raw(folder: Path = RAW) -> dict[str, Raw]:
    """The raw files that exist, by name."""
    files = {name: folder / f"paper-{name}.json" for name in NAMES}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def build_page(raw: dict[str, Raw]) -> str:
    """The page as Markdown.

    Args:
        raw: Contents of the raw files; `cost` may be missing.
    """
    parts = [
        "# Virtual nodes: the paper's first experiment",
        INTRODUCTION,
        *setting_section(raw["tuning"], raw["hardware"]),
        *hardware_section(raw["hardware"]),
        "![accuracy by workers, and peak memory by global batch](virtual-nodes.svg)",
        *batches_section(raw["batches"]),
        *cost_section(raw.get("cost")),
        *limits_section(raw),
    ]
    return "\n\n".join(wrap(part) for part in parts) + "\n"


def wrap(part: str) -> str:
    """A paragraph in lines of at most 120; tables, lists, headings and code as they are."""
    if part.startswith(("|", "#", "-", "`" * 3, "!")):
        return part
    return textwrap.fill(part, 120, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    raw = read_raw()
    PAGE.write_text(build_page(raw))
    PICTURE.write_text(draw_picture(raw["hardware"], raw["batches"]))
    print(f"wrote {PAGE.relative_to(ROOT)} and {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
