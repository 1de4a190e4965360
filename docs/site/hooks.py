"""What the site adds to the files in docs: the README as its home, the commands, the API, results and notes by their folders.

Links that leave docs/ (code, raw data) become their path in code, since the site has no such page.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "holdtrue",
    "holdtrue.plan",
    "holdtrue.mapping",
    "holdtrue.testing",
    "holdtrue.record",
    "holdtrue.numerics",
)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_config(config: Any) -> Any:
    """List results and design notes in the navigation: whatever is there."""
    for title, folder in (("Results", "results"), ("Design notes", "design")):
        pages = sorted((ROOT / "docs" / folder).glob("*.md"))
        config.nav.append({title: [{_title_of(page): f"{folder}/{page.name}"} for page in pages]})
    config.nav.append({"What did not work": "log.md"})
    return config


def _title_of(page: Path) -> str:
    return page.read_text().splitlines()[0].lstrip("# ").strip()


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made here."""
    for name, text in (("index.md", _home()), ("commands.md", _commands()), ("api.md", _api())):
        files.append(File.generated(config, name, content=text))
    return files


def _home() -> str:
    def shorten(match: re.Match[str]) -> str:
        return f"{match[1]}[{match[2]}]({match[3].removeprefix('docs/')})"

    return _LINK.sub(shorten, (ROOT / "README.md").read_text())


def _commands() -> str:
    """Each command's help page, as the command itself prints it."""
    import os
    import subprocess
    import sys

    env = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}

    def help_of(*words: str) -> str:
        command = [sys.executable, "-m", "holdtrue", *words, "--help"]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env=env, timeout=60
        ).stdout.strip()

    root = help_of()
    names = re.findall(r"^│ ([a-z]+) ", root.partition("Commands")[2], re.MULTILINE)
    assert len(names) > 10, f"no commands were found in:\n{root}"
    parts = ["# Commands", "", "```text", root, "```"]
    for name in names:
        parts += ["", f"## holdtrue {name}", "", "```text", help_of(name), "```"]
    return "\n".join(parts) + "\n"


def _api() -> str:
    return "# API\n\n" + "\n".join(f"::: {name}\n" for name in PACKAGES)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links that leave the folder of documents into code."""
    folder = posixpath.dirname(page.file.src_uri)

    def place(match: re.Match[str]) -> str:
        target = match[3]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target.partition("#")[0]))
        if path.startswith("..") or (page.file.src_uri == "index.md" and not _is_in_docs(path)):
            return f"{match[2]} (`{path.lstrip('./')}`)"
        return match[0]

    return _LINK.sub(place, markdown)


def _is_in_docs(path: str) -> bool:
    return (ROOT / "docs" / path).exists()
