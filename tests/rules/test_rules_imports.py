"""Who may import whom, and what importing may do."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "holdtrue"
MODULES = tuple(sorted(SOURCE.rglob("*.py")))
PACKAGES = tuple(sorted(path.parent for path in SOURCE.rglob("__init__.py")))


def name_of(path: Path) -> str:
    """Dotted name of a module or package."""
    return ".".join(("holdtrue", *path.relative_to(SOURCE).parts)).removesuffix(".py")


def imports_of(module: Path) -> list[str]:
    """Absolute dotted names that a module imports, names taken from modules included."""
    parts = ("holdtrue", *module.relative_to(SOURCE).parts[:-1])
    found: list[str] = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parts[: len(parts) + 1 - node.level]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            found += [f"{source}.{alias.name}" for alias in node.names]
    return found


def test_the_rooms_import_one_another_as_the_contracts_say() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


def test_no_room_imports_a_private_file_of_another() -> None:
    wrong = []
    for module in MODULES:
        room = module.relative_to(SOURCE).parts[0]
        for name in imports_of(module):
            parts = name.split(".")
            if parts[0] == "holdtrue" and len(parts) > 2 and parts[1] != room:
                wrong += (
                    [f"{name_of(module)} imports {name}"] if any(p.startswith("_") for p in parts[2:]) else []
                )
    assert wrong == []


def test_files_of_a_package_are_private() -> None:
    public = {"holdtrue.errors", "holdtrue.units"}  # floors of the house without a package of their own
    named = {name_of(m) for m in MODULES if not m.name.startswith("_")}
    assert named == public


@pytest.mark.parametrize("package", PACKAGES, ids=name_of)
def test_a_package_says_what_it_is_and_lists_what_is_public(package: Path) -> None:
    module = import_module(name_of(package))
    assert module.__doc__, "its story"
    assert list(module.__all__) == sorted(module.__all__, key=lambda n: (not n.isupper(), n.islower(), n))
    assert [name for name in module.__all__ if name.startswith("_")] == []
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def run_python(code: str) -> str:
    """What a fresh interpreter prints for `code`, far from any job."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_holdtrue_and_its_command_loads_no_torch() -> None:
    rooms = "holdtrue, holdtrue.cli, holdtrue.launch, holdtrue.record, holdtrue.wire, holdtrue.solve"
    code = f"import sys, {rooms}; print('torch' in sys.modules)"
    assert run_python(code) == "False"


def test_importing_any_room_starts_no_thread_and_touches_no_log_or_environment() -> None:
    rooms = ", ".join(name_of(package) for package in PACKAGES)
    code = (
        "import logging, os, threading\n"
        "import torch  # torch's own doings are not ours\n"
        "before = dict(os.environ), threading.active_count(), list(logging.root.handlers), torch.get_num_threads()\n"
        f"import {rooms}\n"
        "after = dict(os.environ), threading.active_count(), list(logging.root.handlers), torch.get_num_threads()\n"
        "print(before == after)"
    )
    assert run_python(code) == "True"


def test_pinning_kernels_tells_torchs_compiler_without_loading_it() -> None:
    code = (
        "import sys, torch\n"
        "from holdtrue.engine import apply_numerics\n"
        "apply_numerics('exact', threads=1)\n"
        "print(torch.are_deterministic_algorithms_enabled(), 'torch._dynamo' in sys.modules)\n"
        "import torch._inductor.config as compiler  # as a script that compiles its model\n"
        "print(compiler.deterministic)\n"
        "apply_numerics('fast', threads=1)\n"
        "print(torch.are_deterministic_algorithms_enabled(), compiler.deterministic)"
    )
    assert run_python(code).split() == ["True", "False", "True", "False", "False"]
