"""Draws docs/pictures/tree.svg: the tree of additions, and which worker makes each of them.

    .venv/bin/python docs/pictures/draw_tree.py

The trees and the contributions are asked of `holdtrue.mapping`, so that the picture cannot say anything else
than the code.
"""

from dataclasses import dataclass, field
from pathlib import Path

from holdtrue.mapping import Mapping, Tree, contributions_of, leaves_of, order_by_tree, parse_mapping

VIRTUAL_NODES = 7
PANELS = ("0-3/4-6", "0-2/3-4/5-6")
COLOURS = ("#2563eb", "#d97706", "#059669")
"""Fill of what worker 0, 1, 2 computes."""
BETWEEN = "#64748b"
LEAF_GAP, LEVEL_GAP, RADIUS, MARGIN, TOP = 50, 58, 16, 34, 84
FONT = "font-family='Helvetica, Arial, sans-serif'"


@dataclass(slots=True)
class Panel:
    """One mapping's drawing."""

    mapping: Mapping
    left: float
    parts: list[str] = field(default_factory=list)

    def draw(self) -> list[str]:
        """Title, lines and circles of the panel."""
        tree = order_by_tree(self.mapping)
        middle = self.left + (VIRTUAL_NODES - 1) * LEAF_GAP / 2
        words = f"{self.mapping.world_size} workers: {str(self.mapping).replace('/', ' | ')}"
        self.parts.append(text(middle, 30, words, size=16, weight="bold"))
        self._visit(tree, self._colours(tree))
        return self.parts

    def _colours(self, tree: Tree) -> dict[Tree, str]:
        """Colour of every subtree that one worker holds whole."""
        found: dict[Tree, str] = {}

        def colour(subtree: Tree, value: str) -> None:
            found[subtree] = value
            if not isinstance(subtree, int):
                colour(subtree[0], value)
                colour(subtree[1], value)

        for rank, held in enumerate(self.mapping.held):
            for contribution in contributions_of(tree, held):
                colour(contribution, COLOURS[rank])
        return found

    def _visit(self, tree: Tree, colours: dict[Tree, str]) -> tuple[float, float]:
        leaves = leaves_of(tree)
        x = self.left + (leaves[0] + leaves[-1]) / 2 * LEAF_GAP
        y = TOP + (depth_of(order_by_tree(self.mapping)) - depth_of(tree)) * LEVEL_GAP
        if not isinstance(tree, int):
            for child in tree:
                cx, cy = self._visit(child, colours)
                self.parts.insert(0, line(x, y, cx, cy))
        fill = colours.get(tree)
        label = str(tree) if isinstance(tree, int) else "+"
        self.parts.append(circle(x, y, fill))
        self.parts.append(text(x, y + 5, label, size=15, colour="white" if fill else BETWEEN, weight="bold"))
        return x, y


def depth_of(tree: Tree) -> int:
    """Additions on the longest way down."""
    return 0 if isinstance(tree, int) else 1 + max(depth_of(tree[0]), depth_of(tree[1]))


def text(
    x: float, y: float, words: str, *, size: int, colour: str = "#0f172a", weight: str = "normal"
) -> str:
    """Centred words."""
    return (
        f"<text x='{x:g}' y='{y:g}' {FONT} font-size='{size}' font-weight='{weight}' fill='{colour}' "
        f"text-anchor='middle'>{words}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    """An edge of the tree."""
    return f"<line x1='{x1:g}' y1='{y1:g}' x2='{x2:g}' y2='{y2:g}' stroke='#94a3b8' stroke-width='2'/>"


def circle(x: float, y: float, fill: str | None) -> str:
    """A node: filled where one worker computes it, open where workers exchange."""
    look = (
        f"fill='{fill}'"
        if fill
        else f"fill='white' stroke='{BETWEEN}' stroke-width='2' stroke-dasharray='4 3'"
    )
    return f"<circle cx='{x:g}' cy='{y:g}' r='{RADIUS}' {look}/>"


def legend(width: float, y: float) -> list[str]:
    """What colours and dashes mean."""
    entries = [
        *((f"worker {rank}", colour) for rank, colour in enumerate(COLOURS)),
        ("added between workers", None),
    ]
    parts = []
    x = width / 2 - 245
    for words, colour in entries:
        parts.append(circle(x, y, colour).replace(f"r='{RADIUS}'", "r='9'"))
        parts.append(text(x + 16, y + 5, words, size=14).replace("middle", "start"))
        x += 115
    return parts


def main() -> None:
    """Write the picture."""
    panel_width = (VIRTUAL_NODES - 1) * LEAF_GAP + 2 * MARGIN
    width = panel_width * len(PANELS)
    depth = depth_of(order_by_tree(parse_mapping(PANELS[0], VIRTUAL_NODES)))
    height = TOP + depth * LEVEL_GAP + 84
    parts = []
    for i, panel in enumerate(PANELS):
        parts += Panel(parse_mapping(panel, VIRTUAL_NODES), left=i * panel_width + MARGIN).draw()
    parts += legend(width, height - 28)
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:g} {height:g}' width='{width:g}' role='img' "
        "aria-label='One tree of additions over seven virtual nodes, computed by two and by three workers'>"
    )
    body = "\n".join(["<rect width='100%' height='100%' fill='white'/>", *parts])
    Path(__file__).with_name("tree.svg").write_text(f"{head}\n{body}\n</svg>\n")


if __name__ == "__main__":
    main()
