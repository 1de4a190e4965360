"""What is written holds: links, commands, targets and the names of tests."""

import re
from pathlib import Path

import pytest
from pages import PAGES, ROOT, anchors_of, command_lines, links_of, name_of, words_after

from holdtrue.cli._commands import COMMANDS, load_command

pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


@pages
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target in links_of(page.read_text()):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} leads nowhere"
        assert linked.is_relative_to(ROOT), f"{target} leads out of the repository"
        if anchor:
            assert anchor in anchors_of(linked.read_text()), f"{target} names no heading"


def options_of(*words: str) -> set[str]:
    """Options that the help page of `holdtrue COMMAND`, or of a command of a group, lists; none if there is no such command."""
    if words[0] not in COMMANDS:
        return set()
    found = load_command(words[0])
    for word in words[1:]:
        commands = getattr(found, "commands", None)  # click's group, whose class differs by typer version
        if commands is None:
            break
        if word not in commands:
            return set()
        found = commands[word]
    return {name for p in found.params for name in (*p.opts, *p.secondary_opts)} | {
        "--help",
        "-h",
    }


def unknown_words(text: str) -> list[str]:
    """Commands and options of `holdtrue` in a page that its help pages do not have."""
    unknown = []
    for line in command_lines(text, "holdtrue"):
        words = words_after(line, "holdtrue")
        if not words or words[0] in ("--help", "-h", "--version"):
            continue
        known = options_of(*words[:2])
        script = next(
            (i for i, word in enumerate(words) if word.endswith(".py")), len(words)
        )  # the rest is the script's
        options = [word.split("=")[0] for word in words[1:script] if word.startswith("-")]
        unknown += [f"`{line.strip()}`: no {option}" for option in options if option not in known]
        unknown += [] if known else [f"`{line.strip()}`: no command {words[0]}"]
    return unknown


@pages
def test_command_lines_use_commands_and_options_that_exist(page: Path) -> None:
    assert unknown_words(page.read_text()) == []


def test_a_command_or_option_that_does_not_exist_would_be_found() -> None:
    assert len(unknown_words("```sh\nholdtrue run --wrokers 2 train.py --wrokers\n```")) == 1
    assert len(unknown_words("Write `holdtrue explode`.")) == 1
    assert unknown_words("```sh\nholdtrue run --workers 2 train.py --anything\n```") == []


@pages
def test_make_targets_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for line in command_lines(page.read_text(), "make"):
        asked = {word for word in words_after(line, "make") if re.fullmatch("[a-z-]+", word)}
        assert asked <= targets, f"`{line.strip()}`"


@pages
def test_tests_that_are_named_exist(page: Path) -> None:
    for path, _, name in re.findall(r"`(tests/[\w/]+\.py)(::(test_\w+))?`", page.read_text()):
        assert (ROOT / path).is_file(), f"there is no {path}"
        if name:
            assert f"def {name}(" in (ROOT / path).read_text(), f"{path} has no {name}"


def test_rows_that_the_code_names_are_in_the_guarantees() -> None:
    listed = re.findall(r"^\| (G\d+) \|", (ROOT / "docs/guarantees.md").read_text(), re.M)
    rows = set(listed)
    assert len(listed) == len(rows), "a promise stands twice"
    named = {
        row
        for source in (ROOT / "src").rglob("*.py")
        for row in re.findall(r"guarantee (G\d+)", source.read_text())
    }
    assert named
    assert named <= rows


def test_every_dependency_has_its_reason() -> None:
    reasons = (ROOT / "docs/design/0002-dependencies.md").read_text().lower()
    project = (ROOT / "pyproject.toml").read_text()
    start = project.index("dependencies = [")
    needed = re.findall(r'"([A-Za-z0-9_-]+)>=', project[start : project.index("[project.scripts]")])
    assert len(needed) > 6
    assert [name for name in needed if name not in reasons] == []


results = sorted((ROOT / "docs/results").glob("*.md"))


@pytest.mark.parametrize("page", results, ids=name_of)
def test_a_page_of_results_names_its_command_and_links_its_raw_data(page: Path) -> None:
    text = page.read_text()
    raw = [target for target in links_of(text) if "benchmarks/raw/" in target]
    assert raw, "figures need a committed raw file"
    assert "benchmarks/" in text.replace("benchmarks/raw/", ""), "figures need the command that made them"


def test_the_picture_of_the_tree_is_what_its_script_draws(tmp_path: Path) -> None:
    script = ROOT / "docs/pictures/draw_tree.py"
    names: dict[str, object] = {"__name__": "drawn", "__file__": str(tmp_path / script.name)}
    exec(compile(script.read_text(), str(script), "exec", dont_inherit=True), names)
    names["main"]()  # type: ignore[operator]  # a function of the script
    assert (tmp_path / "tree.svg").read_text() == (ROOT / "docs/pictures/tree.svg").read_text()
