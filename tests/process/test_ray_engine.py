"""The ray engine: real jobs whose workers are under Ray actors, on Ray clusters that the tests start and end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cluster_jobs import LiveCluster, digests_of, over
from commands import environment

from holdtrue.cluster import replay_schedule
from holdtrue.launch import take_lock
from holdtrue.scheduler.on_ray._head import local_cluster, ray_variables
from holdtrue.scheduler.on_ray._loopback import __file__ as LOOPBACK_PROGRAM

pytestmark = [pytest.mark.process, pytest.mark.ray]
LENIENT = {"PYTHONWARNINGS": "default"}
"""Ray's own processes do not run with warnings as errors."""
WAIT_S = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    """One scheduler with a Ray cluster of its own, for all tests that leave it as it was."""
    live = LiveCluster(tmp_path_factory.mktemp("ray"), LENIENT)
    live.start("--engine", "ray", "--devices", "cpu:2")
    yield live
    end(live)


def end(live: LiveCluster) -> None:
    """End what a failed test left, by its paths."""
    live.command("cluster", "stop", "--jobs", "--timeout", "30")
    for process in live.processes():
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def actors_of(live: LiveCluster) -> list[psutil.Process]:
    """Ray's worker processes that are hosts, of the cluster's own Ray."""
    keeper = psutil.Process(json.loads((live.folder / "cluster" / "ray.json").read_text())["keeper"])
    found = []
    for process in keeper.children(recursive=True):
        try:
            if "HostActor" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def training_under(process: psutil.Process) -> list[psutil.Process]:
    """Processes that run the script below another one."""
    try:
        children = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [child for child in children if "train.py" in " ".join(cmdline_of(child))]


def training_pids(live: LiveCluster) -> set[int]:
    """Ids of all processes that train under the cluster's hosts."""
    return {process.pid for actor in actors_of(live) for process in training_under(actor)}


def reference(live: LiveCluster, name: str, epochs: int, *options: str) -> dict[int, str]:
    """Digests of an undisturbed run of one worker."""
    words = ("--device", "cpu", "--digest-every", "1", "--run-dir", name, *options)
    ended = live.command("run", *words, "train.py", "none", str(epochs))
    assert ended.status == 0, ended.text
    return digests_of(live.folder / name)


def wait_gone(processes: list[psutil.Process], what: str) -> None:
    """Wait for the ends of processes."""
    _, alive = psutil.wait_procs(processes, timeout=WAIT_S)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE], f"{what} lives after {WAIT_S} s"


def test_workers_are_placed_by_ray_and_deaths_of_all_kinds_change_no_bit(cluster: LiveCluster) -> None:
    (cluster.folder / "slow-1").touch()
    first = cluster.job("first", epochs=60, max_devices=2, mark="slow-1")
    assert cluster.command("submit", first).status == 0
    cluster.wait_until(lambda j: j["first"]["workers"] == 2 and (j["first"]["step"] or 0) > 3, "two workers")
    actors = actors_of(cluster)
    assert len(actors) == 2
    assert [len(training_under(actor)) for actor in actors] == [1, 1], "each has one device's worker"
    # A Ray worker is killed: a dead device.
    victim = training_under(actors[0])
    actors[0].kill()
    wait_gone(victim, "the worker of a killed actor")
    cluster.wait_until(lambda j: j["first"]["workers"] == 2, "another worker in its place")
    # The scheduler is killed, and finds everything again.
    before = {actor.pid for actor in actors_of(cluster)}
    cluster.kill_scheduler()
    cluster.start()
    cluster.wait_until(
        lambda j: j["first"]["workers"] == 2 and j["first"]["step"] is not None, "the same job"
    )
    assert {actor.pid for actor in actors_of(cluster)} == before, "nothing was started twice"
    # Somebody heavier comes: one worker leaves and its device is given to the other job.
    assert (
        cluster.command("submit", cluster.job("second", weight=5), cluster.job("other", seed=9)).status == 0
    )
    cluster.wait_until(lambda j: j["second"]["state"] == "running" and j["first"]["workers"] == 1, "a shrink")
    cluster.wait_until(over("second", "other"), "the ends of two")
    # A training process is killed under its actor.
    cluster.wait_until(lambda j: j["first"]["workers"] == 2, "growth again")
    (killed,) = training_under(actors_of(cluster)[-1])
    (other,) = training_pids(cluster) - {killed.pid}
    killed.kill()
    wait_gone([killed], "a training process that was killed")
    cluster.wait_until(lambda j: len(training_pids(cluster) - {other}) == 1, "another one in its place")
    cluster.wait_until(lambda j: j["first"]["workers"] == 2, "two workers after the death of one")
    (cluster.folder / "slow-1").unlink()
    jobs = cluster.wait_until(over("first"), "the end")
    ends = {name: (j["state"], j["attempt"], j["crashes"], j["exit_code"]) for name, j in jobs.items()}
    assert ends == dict.fromkeys(("first", "second", "other"), ("finished", 1, 0, 0)), cluster.log()
    assert replay_schedule(cluster.client.log()).differences == ()
    whole = reference(cluster, "one", 60)
    seen = {name: digests_of(Path(job["run_dir"])) for name, job in jobs.items()}
    assert len(seen["first"]) == 1 + 60 * 30
    assert seen["first"] == whole
    assert seen["second"] == {step: whole[step] for step in seen["second"]}
    assert all(digest != whole[step] for step, digest in seen["other"].items() if step), (
        "another seed differs"
    )
    wait_gone(actors_of(cluster), "an actor without a job")


def test_exit_statuses_of_scripts_are_read_through_ray(cluster: LiveCluster) -> None:
    files = [cluster.job("bad", mark="crash-1"), cluster.job("again", mark="crash-2", retries=1)]
    files.append(cluster.job("greedy", mark="greedy", epochs=1000, percent=1))
    assert cluster.command("submit", *files).status == 0
    jobs = cluster.wait_until(over("bad", "again", "greedy"), "the ends")
    ends = {
        name: (jobs[name]["state"], jobs[name]["exit_code"], jobs[name]["crashes"])
        for name in ("bad", "again")
    }
    assert ends == {"bad": ("failed", 5, 1), "again": ("finished", 0, 1)}
    assert "exit status 5" in jobs["bad"]["ending"]
    assert (jobs["greedy"]["state"], jobs["greedy"]["exit_code"]) == ("failed", 1)
    assert "its part of the device (1 %) has" in jobs["greedy"]["ending"], (
        "its part of a CPU's memory is kept"
    )


def test_a_job_whose_only_ray_worker_is_killed_goes_on_from_a_checkpoint(cluster: LiveCluster) -> None:
    (cluster.folder / "slow-4").touch()
    assert cluster.command("submit", cluster.job("alone", epochs=10, mark="slow-4", retries=1)).status == 0
    cluster.wait_until(lambda j: (j["alone"]["step"] or 0) > 3, "steps")
    (actor,) = actors_of(cluster)
    actor.kill()
    cluster.wait_until(lambda j: j["alone"]["attempt"] == 2, "another attempt")
    (cluster.folder / "slow-4").unlink()
    job = cluster.wait_until(over("alone"), "the end")["alone"]
    assert (job["state"], job["attempt"], job["crashes"]) == ("finished", 2, 1)
    assert digests_of(Path(job["run_dir"])) == reference(cluster, "alone-one", 10)


def test_wrong_use_is_said_in_a_sentence(cluster: LiveCluster, tmp_path: Path) -> None:
    other = LiveCluster(tmp_path, LENIENT)
    nobody = other.command("cluster", "start", "--engine", "ray", "--address", "127.0.0.1:9")
    assert nobody.status == 2
    assert "the Ray cluster at 127.0.0.1:9 cannot be used" in nobody.err
    assert "Traceback" not in nobody.err
    assert cluster.command("cluster", "stop").status == 0
    wait_gone(living_ray_processes(cluster), "Ray, which nobody needs")
    many = cluster.command("cluster", "start", "--engine", "ray", "--devices", "cpu:99")
    assert many.status == 2
    assert "--devices is cpu:99, and this machine has" in many.err
    cluster.start("--engine", "ray", "--devices", "cpu:2")


def living_ray_processes(live: LiveCluster) -> list[psutil.Process]:
    """Every process of the cluster's own Ray that still lives."""
    return [p for p in psutil.process_iter() if "ht-ray-" in " ".join(cmdline_of(p)) and is_of(live, p)]


def is_of(live: LiveCluster, process: psutil.Process) -> bool:
    try:
        return process.environ().get("HOLDTRUE_CLUSTER") == live.env["HOLDTRUE_CLUSTER"]
    except psutil.Error:
        return False


def cmdline_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def ray_processes(live: LiveCluster) -> list[psutil.Process]:
    """The keeper of the cluster's own Ray and everything below it."""
    keeper = psutil.Process(json.loads((live.folder / "cluster" / "ray.json").read_text())["keeper"])
    return [keeper, *keeper.children(recursive=True)]


def test_a_ray_cluster_of_ones_own_stays_on_loopback_and_ends_with_the_scheduler(
    cluster: LiveCluster,
) -> None:
    processes = ray_processes(cluster)
    files = Path(json.loads((cluster.folder / "cluster" / "ray.json").read_text())["folder"])
    assert oct(files.stat().st_mode & 0o777) == "0o700"
    listening = set()
    for process in processes:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                listening.add(connection.laddr.ip.removeprefix("::ffff:"))
    assert listening == {"127.0.0.1"}
    script = "import ray, sys; from holdtrue.scheduler.on_ray import _loopback as l; l.stay_on_loopback(l.LOOPBACK)\n"
    script += "ray.init(sys.argv[1])"
    address = json.loads((cluster.folder / "cluster" / "ray.json").read_text())["address"]
    right, wrong = (
        subprocess.run(
            [sys.executable, "-c", script, address],
            env=environment(LENIENT | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        for token in ((files / "token").read_text(), "0" * 64)
    )
    assert right.returncode == 0, right.stderr
    assert wrong.returncode != 0, "nobody is let in without the token"
    assert "authentication" in wrong.stderr.lower(), wrong.stderr
    began_s = time.monotonic()
    assert cluster.command("cluster", "stop").status == 0
    assert time.monotonic() - began_s < 30
    wait_gone(processes, "a process of Ray")
    assert not files.exists()


def test_a_ray_cluster_that_nobody_needs_ends_by_itself_however_its_scheduler_died(tmp_path: Path) -> None:
    scheduler = take_lock(tmp_path / "scheduler.lock")
    assert scheduler is not None
    ray = local_cluster(tmp_path, 1, unneeded_s=0.5)
    facts = json.loads((tmp_path / "ray.json").read_text())
    keeper = psutil.Process(facts["keeper"])
    processes = [keeper, *keeper.children(recursive=True)]
    assert local_cluster(tmp_path, 1).address == ray.address, "found, and not started again"
    os.close(scheduler)  # as the kernel does for one that was killed
    wait_gone(processes, "a process of Ray")
    assert not Path(facts["folder"]).exists()
    assert not (tmp_path / "ray.json").exists()


class Nodes:
    """A Ray cluster of two nodes on this machine, as an administrator would have it."""

    def __init__(self, folder: Path) -> None:
        (folder / "token").write_text("1" * 64)
        self.env = LENIENT | ray_variables(folder)
        self._command = [sys.executable, LOOPBACK_PROGRAM, "start", "--block", "--disable-usage-stats"]
        self._command += ["--node-ip-address", "127.0.0.1", "--object-store-memory", "80000000"]
        self.head = self._start(
            "--head",
            "--port",
            "0",
            "--include-dashboard",
            "false",
            "--num-cpus",
            "1",
            "--temp-dir",
            str(folder),
        )
        try:
            self.address = self._wait_for_address(folder / "ray_current_cluster")
            self.second = self._start("--address", self.address, "--num-cpus", "1")
        except BaseException:
            self.kill(self.head)
            raise

    def _wait_for_address(self, path: Path) -> str:
        until_s = time.monotonic() + WAIT_S
        while not path.exists():
            assert self.head.poll() is None, f"the head node ended with status {self.head.poll()}"
            assert time.monotonic() < until_s, f"the head node did not stand in {WAIT_S} s"
            time.sleep(0.05)
        return path.read_text().strip()

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._command, *words], env=environment(self.env), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """A machine that is switched off: everything on it is killed, what has left the node's group too."""
        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            process.send_signal(signal.SIGKILL)
        node.wait(WAIT_S)

    def close(self) -> None:
        for node in (self.second, self.head):
            if node.poll() is None:
                node.send_signal(signal.SIGTERM)
                try:
                    node.wait(20)
                except subprocess.TimeoutExpired:
                    self.kill(node)


def test_lost_nodes_and_a_lost_cluster_are_told_and_no_job_is_blamed(tmp_path: Path) -> None:
    folder = tmp_path_short()
    nodes = Nodes(folder)
    live = LiveCluster(tmp_path, nodes.env)
    try:
        start_when_both_nodes_are_there(live, nodes)
        (live.folder / "slow-1").touch()
        assert live.command("submit", live.job("a", epochs=20, mark="slow-1", max_devices=2)).status == 0
        live.wait_until(
            lambda j: j["a"]["workers"] == 2 and (j["a"]["step"] or 0) > 3, "two workers on two nodes"
        )
        nodes.kill(nodes.second)
        live.wait_until(lambda j: j["a"]["workers"] == 1, "one worker")
        step = live.jobs()["a"]["step"]
        live.wait_until(lambda j: (j["a"]["step"] or 0) > step + 5, "steps without the lost node")
        nodes.kill(nodes.head)
        wait_for_trouble(live)
        job = live.wait_until(
            lambda j: j["a"]["state"] == "waiting" or j["a"]["attempt"] > 1, "a job that waits"
        )["a"]
        assert job["crashes"] == 0
        shown = live.command("queue").out
        assert f"the Ray cluster at {nodes.address} cannot be reached" in shown
        assert live.command("cancel", "a").status == 0
        seen = digests_of(Path(job["run_dir"]))
        whole = reference(live, "one", 20)
        assert len(seen) > 5
        assert seen == {step: whole[step] for step in seen}
    finally:
        end(live)
        nodes.close()
        shutil.rmtree(folder, ignore_errors=True)


def start_when_both_nodes_are_there(live: LiveCluster, nodes: Nodes) -> None:
    until_s = time.monotonic() + WAIT_S
    words = ("cluster", "start", "--engine", "ray", "--address", nodes.address, "--devices", "cpu:2")
    while (ended := live.command(*words)).status and time.monotonic() < until_s:
        assert "the cluster is to have cpu:2, and the Ray cluster has 1 CPUs" in ended.err, ended.text
    assert ended.status == 0, ended.text


def tmp_path_short() -> Path:
    """A short path, for Ray's sockets."""
    return Path(tempfile.mkdtemp(prefix="ht-nodes-"))


def wait_for_trouble(live: LiveCluster) -> None:
    until_s = time.monotonic() + WAIT_S
    while not live.client.queue()["trouble"] and time.monotonic() < until_s:
        time.sleep(0.1)
    assert live.client.queue()["trouble"], os.linesep.join(live.log().splitlines()[-5:])
