"""What every file of the repository keeps to."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = tuple(sorted((ROOT / "src").rglob("*.py")))
LONG_LINES = 500
LONG_FOR_A_REASON: dict[str, str] = {}
"""Modules of more lines than that, and why."""

# A dot in brackets, so that this file does not hold what it looks for.
REGISTRIES = re.compile(r"(pypi|pythonhosted|npmjs|anaconda|download[.]pytorch)[.](org|com)")
PLACES = re.compile(r"(?<![\w.~*-])/(work|root|home|Users|opt|tmp)/\w")


def tracked_files() -> list[Path]:
    """Text files under version control; in an unpacked archive, all of them outside .venv."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if ".venv" not in path.parts]
    return [path for path in paths if path.is_file() and path.suffix not in {".png", ".gz", ".safetensors"}]


@pytest.mark.parametrize("pattern", [REGISTRIES, PLACES], ids=["registries", "places"])
def test_no_file_names_a_registry_or_a_path_of_one_machine(pattern: re.Pattern[str]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_what_is_looked_for_would_be_found() -> None:
    assert REGISTRIES.search("see https://pypi" + ".org/simple")
    assert PLACES.search("cd /" + "work/main")
    assert not PLACES.search("../shared/data, src/work/of and ~/home/x")


def test_modules_are_short_or_have_a_reason() -> None:
    lines = {m.relative_to(ROOT).as_posix(): len(m.read_text().splitlines()) for m in MODULES}
    assert [
        f"{name}: {n} lines" for name, n in lines.items() if n > LONG_LINES and name not in LONG_FOR_A_REASON
    ] == []
    assert [name for name in LONG_FOR_A_REASON if lines.get(name, 0) <= LONG_LINES] == [], (
        "the reason is gone"
    )


def test_every_module_says_what_it_is() -> None:
    assert [
        m.relative_to(ROOT).as_posix() for m in MODULES if not ast.get_docstring(ast.parse(m.read_text()))
    ] == []


def test_the_target_that_says_that_it_draws_draws() -> None:
    text = (ROOT / "Makefile").read_text()
    (recipe,) = re.findall(r"^browser:.*draws the pictures.*\n((?:\t.*\n)+)", text, re.M)
    assert re.search(r"^\tHOLDTRUE_DRAW=1 .*-m browser", recipe, re.M)


def test_the_tree_of_errors_is_drawn_whole() -> None:
    tree = ast.parse((ROOT / "src/holdtrue/errors.py").read_text())
    drawn = re.findall(r"(\w+Error)\b", ast.get_docstring(tree) or "")
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    assert sorted(set(drawn) - {"ValueError"}) == sorted(classes)


def test_versions_are_pinned_exactly_and_without_addresses() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", pin)] == []
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    project = (ROOT / "pyproject.toml").read_text()
    start = project.index("dependencies = [")
    needed = re.findall(r'"([A-Za-z0-9_-]+)>=', project[start : project.index("[project.scripts]")])
    assert [name for name in needed if name.lower() not in pinned] == []
