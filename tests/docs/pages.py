"""What the tests of the documentation read: pages, their code blocks and links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = tuple(
    sorted(p for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")))
)

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
_LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^)\s]+)\)")
_SHELL = frozenset({"sh", "bash", "console", "shell"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of code."""

    language: str
    text: str


def name_of(page: Path) -> str:
    """The page as seen from the repository's root."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(text: str) -> tuple[Block, ...]:
    """The fenced blocks of a page."""
    return tuple(Block(language=language, text=body) for language, body in _FENCE.findall(text))


def links_of(text: str) -> tuple[str, ...]:
    """Targets of the links and pictures of a page, those in code left out."""
    return tuple(_LINK.findall(re.sub(r"`[^`\n]*`", "``", _FENCE.sub("", text))))


def command_lines(text: str, word: str) -> Iterator[str]:
    """Command lines of a page that call `word`, in shell blocks and in inline code, continued lines joined."""
    for block in blocks_of(text):
        if block.language in _SHELL:
            yield from (line for line in _joined(block.text) if _calls(line, word))
    for inline in re.findall(r"`([^`\n]+)`", _FENCE.sub("", text)):
        if _calls(inline, word):
            yield inline


def words_after(line: str, word: str) -> list[str]:
    """The words after the command's name; a comment ends them."""
    words = line.split("#")[0].removeprefix("$ ").split()
    start = next(i for i, w in enumerate(words) if Path(w).name == word)
    return words[start + 1 :]


def anchors_of(text: str) -> frozenset[str]:
    """The anchors that a page's headings make."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.M)
    return frozenset(
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    )


def _joined(body: str) -> list[str]:
    return body.replace("\\\n", " ").splitlines()


def _calls(line: str, word: str) -> bool:
    words = line.split("#")[0].removeprefix("$ ").split()
    while words and "=" in words[0] and not words[0].startswith("-"):
        words = words[1:]  # VARIABLE=value before a command
    return bool(words) and Path(words[0]).name == word
