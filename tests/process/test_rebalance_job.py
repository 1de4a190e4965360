"""A real job whose workers are slow in turn: virtual nodes follow, the record says so, and no bit changes."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import holdtrue, write_script

pytestmark = [pytest.mark.process, pytest.mark.slow]

SCRIPT = """
slow_until = int(sys.argv[1])
run, model = start(virtual_nodes=7, global_batch_size=14)
number = int(os.environ.get("HOLDTRUE_WORKER_WORKER", "0"))
for step in run.steps(examples(14 * 50), epochs=1):
    for batch in step:
        if slow_until:  # a device takes its time
            time.sleep(0.05 if number == (1 if step.index < slow_until else 0) else 0.02)
        step.backward(loss_of(model, batch))
    step.update()
"""


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_a_job_follows_its_slow_worker_and_has_the_digests_of_one_worker(tmp_path: Path) -> None:
    script = write_script(tmp_path, SCRIPT)
    options = ("--digest-every", "1", "--checkpoint-every", "0")
    alone = holdtrue("run", *options, "--run-dir", str(tmp_path / "alone"), str(script), "0", cwd=tmp_path)
    assert alone.status == 0, alone.err
    ended = holdtrue(
        "run",
        "--devices",
        "cpu:2",
        *options,
        "--run-dir",
        str(tmp_path / "run"),
        str(script),
        "25",
        cwd=tmp_path,
    )
    assert ended.status == 0, ended.err
    steps = [(s["step"], s["digest"]) for s in read(tmp_path / "run", "steps")]
    assert steps == [(s["step"], s["digest"]) for s in read(tmp_path / "alone", "steps")]
    events = read(tmp_path / "run", "events")
    remaps = [event for event in events if event["kind"] == "remap"]
    counts = [[part.count(",") for part in e["details"]["mapping"].split("/")] for e in remaps]
    assert len(remaps) >= 2, events
    assert remaps[0]["step"] <= 10
    assert "worker 1 4 -> 2 virtual nodes" in remaps[0]["reason"], counts
    assert any(25 < e["step"] <= 35 and "worker 0 5 -> 2 virtual nodes" in e["reason"] for e in remaps), (
        remaps
    )
    told = [event for event in events if event["kind"] == "remapped"]
    assert told
    assert abs(told[0]["details"]["gain"] - told[0]["details"]["predicted_gain"]) < 0.5
