"""Devices of Slurm allocations in live jobs: they come by srun and sbatch, leave at Slurm's notice, and die with their node.

`make slurm` runs it: it needs root and Debian's Slurm, and makes a cluster of pretended nodes on this machine's loopback.
The scripts are those of the guide, as they are.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import holdtrue, write_script
from elastic_jobs import facts_of, members_of, sentences_of, stands
from slurm_cluster import SlurmCluster, missing

from holdtrue.record import RunRecord, read_run

pytestmark = [pytest.mark.process, pytest.mark.slurm]
SCRIPTS = Path(__file__).resolve().parents[2] / "examples" / "slurm"
STEPS = 1200
BODY = f"""
run = ht.init(virtual_nodes=7, global_batch_size=24)
model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
run.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.01))
for step in run.steps(examples(240), epochs={STEPS // 10}):
    take_step(step, model)
    if os.path.exists("slow"):
        time.sleep(0.25)
"""
OPTIONS = ("--device", "cpu", "--digest-every", "1", "--checkpoint-every", "50")


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    """A cluster of five nodes, and no process of it afterwards."""
    if reason := missing():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="holdtrue-slurm-"))
    made = SlurmCluster(folder, nodes=5)
    with pytest.MonkeyPatch.context() as patch:
        # A batch job knows jobs in the shared home, and so does who looks for them without a runtime folder.
        patch.delenv("XDG_RUNTIME_DIR")
        patch.setenv("XDG_STATE_HOME", str(folder / "home"))
        try:
            made.start()
            yield made
        finally:
            made.close()
            left = made.wait_for_the_end()
            shutil.rmtree(folder)
    assert left == []


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder as a user has it: a script of their own, and the guide's batch scripts."""
    write_script(tmp_path, BODY)
    for script in SCRIPTS.glob("*.sbatch"):
        shutil.copy(script, tmp_path)
    (tmp_path / "slow").touch()  # until all changes are through
    return tmp_path


class Live:
    """A job that runs under Slurm, as its controller sees it."""

    def __init__(self, cluster: SlurmCluster, folder: Path, name: str, *options: str) -> None:
        self._cluster, self._folder, self.name = cluster, folder, name
        self.number = self.sbatch("job.sbatch", name, *OPTIONS, *options, "train.py")

    def sbatch(self, *words: str) -> str:
        """Number of a batch job that was just submitted."""
        return self._cluster.call("sbatch", "--parsable", *words, cwd=self._folder)

    def wait_for_workers(self, count: int) -> dict[str, Any]:
        """The controller's facts once so many workers have done some steps together."""
        first = self._cluster.wait(f"{count} worker(s)", lambda: self._standing(count))
        return self._cluster.wait(
            f"steps of {count} worker(s)", lambda: self._standing(count, first["step"] + 3)
        )

    def _standing(self, count: int, step: int = 2) -> dict[str, Any] | None:
        facts = facts_of(self.name)
        return facts if facts and stands(facts, count, step=step) else None

    def finish(self) -> RunRecord:
        """Let it run to its end at full speed; its record."""
        (self._folder / "slow").unlink()
        self._cluster.wait(
            "the end of the job", lambda: self._cluster.job(self.number).get("state") == "COMPLETED"
        )
        return read_run(self._folder / "runs" / self.name)

    def count(self, words: str) -> int:
        """How many of the controller's sentences have these words."""
        return sum(words in sentence for sentence in sentences_of(self.name))


def undisturbed(folder: Path, *options: str) -> RunRecord:
    """The run of one worker outside Slurm that nobody disturbs."""
    ended = holdtrue("run", *OPTIONS, "--run-dir", "one", *options, "train.py", cwd=folder)
    assert ended.status == 0, ended.text
    return read_run(folder / "one")


def digests_of(run: RunRecord) -> list[str]:
    return [run.digests[step].digest for step in sorted(run.steps)]


def test_devices_come_leave_and_die_by_slurm_and_no_bit_changes(cluster: SlurmCluster, project: Path) -> None:
    live = Live(cluster, project, "live")
    live.wait_for_workers(1)
    home = cluster.job(live.number)["nodes"]
    away = [node for node in cluster.nodes if node != home]

    url, token = (project / f"runs/live.{end}" for end in ("url", "token"))
    join = ("holdtrue", "worker", "--join", url.read_text().strip(), "--token-file", str(token))
    step = cluster.begin(
        "srun", f"--nodelist={','.join(away[:2])}", "--ntasks=2", "--no-kill", *join, cwd=project
    )
    live.wait_for_workers(3)

    cluster.kill_node(away[0])
    live.wait_for_workers(2)
    assert (live.count(" gone"), live.count("wants to leave")) == (2, 0), (
        "told once, and once as the view stands"
    )
    cluster.wait("a node that Slurm takes for dead", lambda: cluster.states()[away[0]] == "down")

    spare = live.sbatch("workers.sbatch", "live")
    live.wait_for_workers(3)
    drained = cluster.job(spare)["nodes"]
    cluster.call("scontrol", "update", f"nodename={drained}", "state=drain", "reason=maintenance")
    assert len(members_of(live.wait_for_workers(3))) == 3, "a drained node keeps what runs on it"
    cluster.call("scontrol", "requeue", spare)
    live.wait_for_workers(2)
    assert (live.count(" gone"), live.count("wants to leave")) == (2, 1), "a requeue's notice is no death"
    cluster.wait("a drained node", lambda: cluster.states()[drained] == "drained")
    live.wait_for_workers(3)
    assert cluster.job(spare)["nodes"] not in (drained, away[0], home)

    cluster.kill_worker(members_of(facts_of("live"))[-1]["worker"])
    live.wait_for_workers(2)
    assert live.count("was killed by signal 9") == 1

    cluster.call("scancel", "--name=holdtrue", "--state=RUNNING", f"--nodelist={away[1]}")
    live.wait_for_workers(1)
    assert live.count("wants to leave") == 2, "nor is that of a cancelled allocation"
    step.wait(30)

    workers = live.sbatch("--partition=preemptible", "workers.sbatch", "live")
    live.wait_for_workers(2)
    node = cluster.job(workers)["nodes"]
    cluster.call("sbatch", f"--nodelist={node}", "--output=urgent.log", "--wrap=true", cwd=project)
    live.wait_for_workers(1)
    assert live.count("wants to leave") == 3, "nor is that of a preemption"
    live.wait_for_workers(2)
    cluster.call("scontrol", "requeue", live.number)
    cluster.wait("the requeued job", lambda: facts_of("live") == {})
    live.wait_for_workers(1)
    log = (project / f"holdtrue-{live.number}.log").read_text()
    assert re.search(r"interrupted after (\d+) steps; the last checkpoint is step \1\b", log), log
    run = live.finish()
    assert len(run.steps) == STEPS
    assert digests_of(run) == digests_of(undisturbed(project))


def test_the_wrong_order_of_additions_is_noticed_when_a_device_is_preempted_and_comes_back(
    cluster: SlurmCluster, project: Path
) -> None:
    live = Live(cluster, project, "wrong", "--numerics", "fast")
    live.wait_for_workers(1)
    workers = live.sbatch("--partition=preemptible", "workers.sbatch", "wrong")
    live.wait_for_workers(2)
    node = cluster.job(workers)["nodes"]
    cluster.call("sbatch", f"--nodelist={node}", "--output=urgent.log", "--wrap=true", cwd=project)
    live.wait_for_workers(1)
    assert (live.count("wants to leave"), live.count(" gone")) == (1, 0), "preemption is a notice"
    live.wait_for_workers(2)  # requeued by Slurm
    run, other = live.finish(), undisturbed(project, "--numerics", "fast")
    assert digests_of(run)[0] == digests_of(other)[0], "one worker alone"
    assert digests_of(run) != digests_of(other)
