"""What `holdtrue status --watch` adds: curves in blocks, and who runs what."""

from pathlib import Path

from holdtrue.cli._curves_view import describe_curves
from holdtrue.dashboard import Observatory
from holdtrue.plan import Plan
from holdtrue.record import RunDirectory


def test_the_terminal_shows_loss_throughput_mapping_and_the_last_changes(tmp_path: Path) -> None:
    plan = Plan(virtual_nodes=3, global_batch_size=12, seed=1)
    with RunDirectory.create(tmp_path / "a", plan=plan, environment={}, generation=1, resume=False) as run:
        for step in range(200):
            if step == 100:
                run.generation = 2
                details = {"workers": [0, 4], "devices": ["cpu", "cpu"], "mapping": "0/1-2"}
                run.append_event("resize", step=100, reason="worker 4 joined", details=details)
            run.append_step(step=step, epoch=0, loss=200.0 - step, seconds=1.0 if step < 100 else 0.5)
    view = Observatory(jobs=tmp_path / "jobs", runs=tmp_path).view("run/a")
    loss, rate, first, second, change = describe_curves(view, columns=80)
    assert loss.split()[:1] == ["loss"]
    assert loss.split()[1][0] == "█"
    assert loss.split()[1][-1] == "▁"
    assert loss.endswith(" 1")
    assert "▁" in rate
    assert rate.endswith("24 examples/s")
    assert "worker 0" in first
    assert "virtual nodes 0" in first
    assert "worker 4" in second
    assert "virtual nodes 1-2" in second
    assert change == "  step 100: generation 2 worker 4 joined"
    assert max(map(len, (loss, rate, first, second, change))) <= 80
