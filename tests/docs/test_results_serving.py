"""The page of serving is made of its raw file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_serving_is_what_the_script_makes_of_the_raw_file() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import serve

        raw = json.loads((ROOT / "benchmarks" / "raw" / "serve.json").read_text())
        assert serve.render(raw) == (ROOT / "docs" / "results" / "serving.md").read_text()
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_a_note_is_written_into_the_raw_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import serve

    monkeypatch.setattr(serve.shutil, "which", lambda name: name)
    monkeypatch.setattr(serve, "describe", lambda command: {"command": command})
    monkeypatch.setattr(serve, "measure", lambda model, args: {})
    done = subprocess.CompletedProcess(["wrk"], 0, stdout="wrk 4\n")
    monkeypatch.setattr(serve.subprocess, "run", lambda *words, **named: done)
    for note in (["--note", "A busy day."], []):
        monkeypatch.setattr(sys, "argv", ["serve.py", "--out", str(tmp_path / "raw.json"), *note])
        serve.main()
        assert json.loads((tmp_path / "raw.json").read_text()).get("note") == (
            "A busy day." if note else None
        )
