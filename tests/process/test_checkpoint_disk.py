"""A disk that refuses checkpoints costs checkpoints, not the run."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import holdtrue, write_script
from elastic_jobs import read_events
from faulty_jobs import read_lines

pytestmark = pytest.mark.process

SCRIPT = """
class Wide(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = torch.nn.Linear(3, 6000), torch.nn.Linear(6000, 1)
    def forward(self, x):
        return self.last(torch.relu(self.first(x))).squeeze(-1) / 100

run, model = start(Wide())
if run.is_main and os.path.exists("before.sh"):
    import subprocess
    subprocess.run(["sh", "before.sh"], check=True)
for step in run.steps(examples(), epochs=4):
    take_step(step, model)
"""
"""12 steps; a checkpoint has 120 kB."""

OPTIONS = (
    "run",
    "--device",
    "cpu",
    "--digest-every",
    "1",
    "--checkpoint-every",
    "2",
    "--keep-checkpoints",
    "9",
)


MOUNT = "mkdir run/checkpoints && mount -t tmpfs -o size=320k tmpfs run/checkpoints"
"""A file system with place for two checkpoints and a half."""


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[None]:
    """The run's folder of checkpoints is a small file system, made once the run has begun."""
    probe = tmp_path / "probe"
    probe.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", probe], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr}")
    subprocess.run(["umount", probe], check=True)
    yield
    subprocess.run(["umount", tmp_path / "run" / "checkpoints"], check=True)


def digests_of(run_dir: Path) -> dict[int, str]:
    found = [(line["step"], line["digest"]) for line in read_lines(run_dir / "digests.jsonl")]
    assert len(dict(found)) == len(set(found)), "a step that was done again after resuming has another digest"
    return dict(found)


@pytest.mark.usefixtures("full_disk")
def test_on_a_full_disk_training_goes_on_and_the_last_whole_checkpoint_resumes(tmp_path: Path) -> None:
    write_script(tmp_path, SCRIPT)
    assert holdtrue(*OPTIONS, "--run-dir", "base", "train.py", cwd=tmp_path).status == 0
    base = digests_of(tmp_path / "base")
    (tmp_path / "before.sh").write_text(MOUNT)
    ended = holdtrue(*OPTIONS, "--run-dir", "run", "train.py", cwd=tmp_path)
    (tmp_path / "before.sh").unlink()
    assert ended.status == 0, ended.text
    assert digests_of(tmp_path / "run") == base
    assert "the checkpoint of step 6 could not be written" in ended.err
    kinds = [(event["kind"], event["step"]) for event in read_events(tmp_path)]
    assert [step for kind, step in kinds if kind == "checkpoint"] == [2, 4]
    assert [step for kind, step in kinds if kind == "checkpoint-failed"] == [6, 8, 10, 12]
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000002", "step-00000004"]
    again = holdtrue(
        "run",
        "--device",
        "cpu",
        "--digest-every",
        "1",
        "--resume",
        "--run-dir",
        "run",
        "train.py",
        cwd=tmp_path,
    )
    assert again.status == 0, again.text
    assert "at step 4" in again.err
    assert digests_of(tmp_path / "run") == base


def test_a_folder_that_cannot_be_written_costs_the_checkpoints_alone(tmp_path: Path) -> None:
    write_script(tmp_path, SCRIPT)
    (tmp_path / "before.sh").write_text("touch run/checkpoints")  # refuses also where root asks
    ended = holdtrue(*OPTIONS, "--workers", "2", "--run-dir", "run", "train.py", cwd=tmp_path)
    assert ended.status == 0, ended.text
    assert sorted(digests_of(tmp_path / "run")) == list(range(-1, 12))
    failed = [event["step"] for event in read_events(tmp_path) if event["kind"] == "checkpoint-failed"]
    assert failed == [2, 4, 6, 8, 10, 12]
    assert ended.err.count("could not be written") == len(failed)
