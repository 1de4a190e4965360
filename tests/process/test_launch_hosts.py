"""Two machines, as two network namespaces that the test makes: a job on one, a device of the other that joins it."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from commands import HOLDTRUE, environment
from elastic_jobs import WAIT_S, ElasticJob

pytestmark = pytest.mark.process
HERE = Path(__file__).parent
HOME, AWAY = "10.213.7.1", "10.213.7.2"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two namespaces joined by a cable; each has a loopback of its own."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("two hosts are two network namespaces, which need root and iproute2")
    names = tuple(f"holdtrue-{os.getpid()}-{end}" for end in "ab")
    cable = tuple(f"ht{os.getpid() % 10**6}{end}" for end in "ab")
    try:
        for name in names:
            ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine makes no network namespaces: {error.stderr.decode().strip()}")
    try:
        ip("link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
        for name, end, address in zip(names, cable, (HOME, AWAY), strict=True):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "delete", name)


def begin(name: str, folder: Path, *words: str) -> subprocess.Popen[str]:
    """`holdtrue WORDS` on the machine of a namespace."""
    return subprocess.Popen(
        ["ip", "netns", "exec", name, HOLDTRUE, *words],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_device_of_another_machine_joins_a_job_and_leaves_it(
    namespaces: tuple[str, str], tmp_path: Path
) -> None:
    folders = tmp_path / "home", tmp_path / "away"
    for folder in folders:
        folder.mkdir()
        (folder / "train.py").write_text(
            f"import sys; sys.path.append({str(HERE)!r})\nfrom fake_worker import *\nbe_elastic()\n"
        )
    name = f"hosts-{os.getpid()}"
    options = ("--device", "cpu", "--name", name, "--run-dir", "run", "--listen", HOME)
    job = ElasticJob(
        folder=folders[0], process=begin(namespaces[0], folders[0], "run", *options, "train.py"), name=name
    )
    try:
        entry = wait_for_entry(job)
        token = folders[1] / "token"
        shutil.copy(entry.join_file, token)
        join = ("worker", "--join", entry.url, "--token-file", str(token))
        job.hosts.append(begin(namespaces[1], folders[1], *join))
        status = look(namespaces[0], job, " of 2 workers")
        assert "rank 1" in status
        for process in psutil.Process(job.hosts[0].pid).children(recursive=True):
            listening = {
                c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN
            }
            assert listening <= {AWAY}, "a worker listens where the others reach it, and nowhere else"
        job.hosts[0].send_signal(signal.SIGTERM)
        out, err = job.hosts[0].communicate(timeout=WAIT_S)
        assert job.hosts[0].returncode == 0, out + err
        look(namespaces[0], job, " of 1 worker")
        job.process.send_signal(signal.SIGINT)
        assert job.end().status == 130
    finally:
        job.close()


def wait_for_entry(job: ElasticJob):  # type: ignore[no-untyped-def]
    """The job's entry, once it has one."""

    from holdtrue.errors import UsageError

    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        try:
            return job.entry
        except UsageError:
            assert job.process.poll() is None, job.process.communicate()
            time.sleep(0.05)
    raise AssertionError(f"{job.name} has no entry after {WAIT_S} s")


def look(namespace: str, job: ElasticJob, words: str) -> str:
    """What `holdtrue status` shows on the machine of a namespace, once it has these words."""

    until_s, shown = time.monotonic() + WAIT_S, ""
    while time.monotonic() < until_s:
        process = begin(namespace, job.folder, "status", job.name)
        shown, _ = process.communicate(timeout=WAIT_S)
        if words in shown:
            return shown
    raise AssertionError(f"status never showed {words!r}; it shows {shown!r}")
