"""A live cluster: real jobs under a scheduler in a process of its own, found and asked as users do."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cluster_jobs import WAIT_S, LiveCluster, digests_of, over
from commands import HOLDTRUE, begin, call, finish, write_script

from holdtrue.cluster import replay_schedule
from holdtrue.elastic import ControlClient, read_tokens
from holdtrue.launch import LEASES_VARIABLE, Leases, find_job, jobs_folder

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LiveCluster]:
    live = LiveCluster(tmp_path)
    yield live
    for process in live.processes():
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def test_a_job_is_submitted_runs_and_finishes(cluster: LiveCluster) -> None:
    cluster.start("--devices", "cpu:2")
    again = cluster.command("cluster", "start")
    assert again.status == 2
    assert "a cluster is running already in" in again.err
    wrong = cluster.command("submit", cluster.job("good"), cluster.job("big", max_devices=3))
    assert wrong.status == 2
    assert "asks for 3 devices of one type and the cluster has at most 2" in wrong.err
    assert cluster.jobs() == {}, "nothing is half-submitted"
    assert cluster.command("submit", "good.toml").status == 0
    jobs = cluster.wait_until(over("good"), "the end")
    assert (jobs["good"]["state"], jobs["good"]["exit_code"]) == ("finished", 0)
    shown = cluster.command("queue", "--all")
    assert "good  finished" in shown.out
    assert cluster.command("cluster", "stop").status == 0
    gone = cluster.command("queue")
    assert gone.status == 2
    assert "no cluster is running" in gone.err


def test_jobs_grow_and_shrink_survive_the_scheduler_and_keep_their_bits(cluster: LiveCluster) -> None:
    cluster.start("--devices", "cpu:2")
    assert (
        cluster.command("submit", cluster.job("first", epochs=80, max_devices=2, mark="slow-1")).status == 0
    )
    (cluster.folder / "slow-1").touch()
    cluster.wait_until(
        lambda jobs: jobs["first"]["workers"] == 2 and (jobs["first"]["step"] or 0) > 3, "two workers"
    )
    cluster.kill_scheduler()
    assert cluster.command("queue").status == 2
    cluster.start()
    assert (
        cluster.command(
            "submit",
            cluster.job("second", epochs=4, weight=5),
            cluster.job("third", epochs=4, retries=1, mark="crash-3"),
        ).status
        == 0
    )
    cluster.wait_until(
        lambda jobs: jobs["second"]["state"] == "running" and jobs["first"]["workers"] == 1, "a shrink"
    )
    cluster.kill_scheduler()
    cluster.start()
    cluster.wait_until(over("second", "third"), "the ends of two")
    cluster.wait_until(lambda jobs: jobs["first"]["workers"] == 2, "growth again")
    (cluster.folder / "slow-1").unlink()
    jobs = cluster.wait_until(over("first"), "the end")
    assert {name: (j["state"], j["attempt"], j["crashes"]) for name, j in jobs.items()} == {
        "first": ("finished", 1, 0), "second": ("finished", 1, 0), "third": ("finished", 2, 1),
    }  # fmt: skip
    replay = replay_schedule(cluster.client.log())
    assert replay.decisions >= 8
    assert replay.differences == ()
    one = cluster.command(
        "run", "--device", "cpu", "--digest-every", "1", "--run-dir", "one", "train.py", "none", "80"
    )
    assert one.status == 0, one.text
    reference = digests_of(cluster.folder / "one")
    for name, job in jobs.items():
        digests = digests_of(Path(job["run_dir"]))
        assert len(digests) == 1 + (2400 if name == "first" else 120), "before the first step, and after each"
        assert digests == {step: reference[step] for step in digests}


def test_exit_statuses_of_jobs_that_ended_while_no_scheduler_lived_are_read(cluster: LiveCluster) -> None:
    cluster.start("--devices", "cpu:2")
    files = [cluster.job("bad", mark="crash-1"), cluster.job("good", mark="slow-2")]
    (cluster.folder / "slow-2").touch()
    assert cluster.command("submit", *files).status == 0
    cluster.wait_until(lambda jobs: all(job["attempt"] == 1 for job in jobs.values()), "both started")
    cluster.kill_scheduler()
    folders = [cluster.folder / "cluster" / "attempts" / name / "exit" for name in ("1-1", "2-1")]
    assert not any(path.exists() for path in folders), "the scheduler died before them"
    until_s = time.monotonic() + WAIT_S
    while not all(path.exists() for path in folders) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert all(path.exists() for path in folders), "both ended while no scheduler lived"
    cluster.start()
    jobs = cluster.wait_until(over("bad", "good"), "what had happened")
    assert {name: (j["state"], j["exit_code"]) for name, j in jobs.items()} == {
        "bad": ("failed", 5),
        "good": ("finished", 0),
    }
    assert "exit status 5" in jobs["bad"]["ending"]


@pytest.mark.parametrize("victims", ["launcher and keeper", "launcher"])
def test_a_job_whose_launcher_is_killed_is_retried_when_its_workers_are_gone(
    victims: str, cluster: LiveCluster
) -> None:
    cluster.start("--devices", "cpu:2")
    assert cluster.command("submit", cluster.job("a", mark="endless", epochs=1000, retries=1)).status == 0
    cluster.wait_until(lambda jobs: (jobs["a"]["step"] or 0) > 3, "steps")
    keeper = next(p for p in cluster.processes() if "_keeper.py" in " ".join(p.cmdline()))
    launcher = keeper.children()[0]
    workers = [p for p in launcher.children(recursive=True) if "train.py" in " ".join(p.cmdline())]
    assert workers
    if "keeper" in victims:
        keeper.kill()
        assert cluster.jobs()["a"]["state"] == "running", "its launcher lives"
    launcher.kill()
    cluster.wait_until(lambda jobs: jobs["a"]["attempt"] == 2, "the second attempt's start")
    assert not any(p.is_running() for p in workers), "no device is given away under a worker that lives"
    jobs = cluster.wait_until(
        lambda jobs: jobs["a"]["attempt"] == 2 and (jobs["a"]["step"] or 0) > 5, "the second attempt"
    )
    assert (jobs["a"]["state"], jobs["a"]["crashes"]) == ("running", 1)
    assert cluster.command("cancel", "a").status == 0
    jobs = cluster.wait_until(over("a"), "the cancelled end")
    assert (jobs["a"]["state"], jobs["a"]["exit_code"]) == ("cancelled", 130)
    assert cluster.processes() == [psutil.Process(cluster.client.address.pid)], "nothing of the job is left"


def test_stopping_with_jobs_writes_checkpoints_from_which_they_go_on(cluster: LiveCluster) -> None:
    cluster.start("--devices", "cpu:2", "--policy", "priority")
    (cluster.folder / "slow-1").touch()
    assert cluster.command("submit", cluster.job("a", mark="slow-1", epochs=20)).status == 0
    cluster.wait_until(lambda jobs: (jobs["a"]["step"] or 0) > 3, "steps")
    ended = cluster.command("cluster", "stop", "--jobs")
    assert ended.status == 0, ended.text
    assert "a: stopped with a checkpoint" in ended.err
    (cluster.folder / "slow-1").unlink()
    cluster.start()
    jobs = cluster.wait_until(over("a"), "the end")
    assert (jobs["a"]["state"], jobs["a"]["attempt"], cluster.client.health()["policy"]) == (
        "finished",
        2,
        "priority",
    )


def test_the_scheduler_listens_on_loopback_and_answers_nobody_without_a_token(cluster: LiveCluster) -> None:
    from http.client import HTTPConnection

    cluster.start("--devices", "cpu:1")
    address = cluster.client.address
    listening = [
        c.laddr for c in psutil.Process(address.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN
    ]
    assert [where.ip for where in listening] == ["127.0.0.1"]
    port = listening[0].port
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer wrong-token-of-some-length"}, 401),
        ({"Host": "example.org"}, 421),
        ({"Origin": "http://example.org"}, 403),
    ):
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/v1/submit", body=b'{"jobs": []}', headers=headers)
        assert connection.getresponse().status == status
        connection.close()
    assert oct(os.stat(address.token_file).st_mode & 0o777) == "0o600"
    assert "there is no policy 'best'" in cluster.command("cluster", "policy", "best").err


def test_two_halves_of_a_device_are_kept_to_their_part_with_the_same_bits(cluster: LiveCluster) -> None:
    cluster.start("--devices", "cpu:1", "--policy", "queues")
    files = [cluster.job(name, epochs=20, percent=50) for name in ("left", "right")]
    assert cluster.command("submit", *files).status == 0
    jobs = cluster.wait_until(
        lambda jobs: all((job["step"] or 0) > 10 for job in jobs.values()), "both train"
    )
    folders = {name: Path(job["run_dir"]) for name, job in jobs.items()}
    workers = {name: worker_of(cluster, folder) for name, folder in folders.items()}
    before = {name: (sum(w.cpu_times()[:2]), time.monotonic()) for name, w in workers.items()}
    cluster.wait_until(
        lambda jobs: all((job["step"] or 0) > 300 for job in jobs.values()), "two hundred steps"
    )
    for name, worker in workers.items():
        used_s = sum(worker.cpu_times()[:2]) - before[name][0]
        assert used_s / (time.monotonic() - before[name][1]) < 0.55, "of a device's time"
    cluster.wait_until(over("left", "right"), "the ends")
    one = cluster.command(
        "run", "--device", "cpu", "--digest-every", "1", "--run-dir", "one", "train.py", "none", "20"
    )
    assert one.status == 0, one.text
    reference = digests_of(cluster.folder / "one")
    for folder in folders.values():
        assert digests_of(folder) == reference


def test_a_part_that_takes_more_memory_than_its_own_fails_and_its_neighbour_keeps_its_bits(
    cluster: LiveCluster,
) -> None:
    cluster.start("--devices", "cpu:1", "--memory", "1200MiB")
    files = [
        cluster.job("greedy", mark="greedy", epochs=100, percent=50, retries=1),
        cluster.job("good", epochs=8, percent=50),
    ]
    assert cluster.command("submit", *files).status == 0
    jobs = cluster.wait_until(over("greedy", "good"), "the ends")
    greedy, good = jobs["greedy"], jobs["good"]
    assert (greedy["state"], greedy["exit_code"], greedy["attempt"]) == ("failed", 1, 2)
    assert (
        "its part of the device (50 %) has 600.0 MiB; a job of a part that takes more is ended"
        in greedy["ending"]
    )
    assert (good["state"], good["attempt"]) == ("finished", 1)
    words = ("--device", "cpu", "--digest-every", "1", "--run-dir", "one", "train.py", "none", "8")
    one = cluster.command("run", *words)
    assert one.status == 0, one.text
    assert digests_of(Path(good["run_dir"])) == digests_of(cluster.folder / "one")


def test_more_parts_than_devices_run_at_once_under_every_live_policy(cluster: LiveCluster) -> None:
    cluster.start("--devices", "cpu:1", "--policy", "fifo")
    (cluster.folder / "slow-1").touch()
    files = [cluster.job(f"part-{i}", mark="slow-1", percent=20, epochs=40) for i in range(4)]
    assert cluster.command("submit", *files).status == 0
    cluster.wait_until(lambda j: all((job["step"] or 0) > 2 for job in j.values()), "four on one device")
    for policy in ("wfs", "srtf", "wfs-any", "queues", "priority", "wfs"):
        assert cluster.command("cluster", "policy", policy).status == 0
        seen = {name: (job["state"], job["devices"]) for name, job in cluster.jobs().items()}
        assert set(seen.values()) == {("running", 1)}, f"nobody loses its part: {policy} {seen}"
    (cluster.folder / "slow-1").unlink()
    jobs = cluster.wait_until(over(*(f"part-{i}" for i in range(4))), "the ends")
    assert {(job["state"], job["attempt"]) for job in jobs.values()} == {("finished", 1)}
    assert replay_schedule(cluster.client.log()).differences == ()


LEASING = """
run = ht.init(virtual_nodes=4, global_batch_size=8)
model = torch.nn.Linear(3, 1)
run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
pathlib.Path("seen-" + os.environ["CUDA_VISIBLE_DEVICES"]).touch()
for step in run.steps(examples(16), epochs=2):
    take_step(step, model)
"""


def test_each_worker_leases_a_device_sees_it_alone_and_gives_it_back(tmp_path: Path) -> None:
    write_script(tmp_path, LEASING)
    leases = Leases(folder=tmp_path / "leases", names=("4", "GPU-5"))
    words = ("run", "--workers", "2", "--device", "cpu", "train.py")
    ended = call([HOLDTRUE, *words], cwd=tmp_path, env={LEASES_VARIABLE: leases.to_text()})
    assert ended.status == 0, ended.text
    assert sorted(path.name for path in tmp_path.glob("seen-*")) == ["seen-4", "seen-GPU-5"]
    both = [leases.take() for _ in leases.names]
    assert {lease.name for lease in both if lease is not None} == {"4", "GPU-5"}, "both are free again"
    for lease in both:
        assert lease is not None
        os.close(lease.fd)


def test_founders_that_get_no_device_are_no_deaths_and_others_have_those_that_come_free(
    tmp_path: Path,
) -> None:
    write_script(tmp_path, LEASING)
    leases = Leases(folder=tmp_path / "leases", names=("4", "GPU-5"))
    held = [lease for _ in leases.names if (lease := leases.take()) is not None]
    words = ("run", "--workers", "2", "--device", "cpu", "--run-dir", "out", "train.py")
    started_s = time.monotonic()
    process = begin([HOLDTRUE, *words], cwd=tmp_path, env={LEASES_VARIABLE: leases.to_text()})
    said = tmp_path / "out" / "logs" / "controller.log"
    sentence = "was not started on host launcher: no device of 4, GPU-5 was free for 15 s"
    try:
        while not (said.exists() and said.read_text().count(sentence) == 2):
            assert process.poll() is None, "it ended before its founders were given up"
            assert time.monotonic() < started_s + WAIT_S, (
                f"no word of founders without a device in {WAIT_S:g} s"
            )
            time.sleep(0.05)
        for lease in held:
            os.close(lease.fd)
        ended = finish(process, started_s)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert ended.status == 0, ended.text
    assert sorted(path.name for path in tmp_path.glob("seen-*")) == ["seen-4", "seen-GPU-5"]
    text = said.read_text()
    assert "generation 1 of workers [2, 3]: the job begins with 2 workers" in text
    assert "is replaced" not in text, "nobody died"


def worker_of(cluster: LiveCluster, run_dir: Path) -> psutil.Process:
    """The process that drives the device of a job of one worker."""
    client = next(job for job in cluster.client.queue()["jobs"] if job["run_dir"] == str(run_dir))
    entry, _ = find_job(jobs_folder(os.environ), client["name"])
    token = read_tokens(Path(entry.token_file)).by_scope["read"]
    (worker,) = ControlClient(url=entry.url, token=token).job()["workers"]
    return psutil.Process(worker["pid"])
