"""The commands of the Kubernetes manifests, run on this machine: what a pod starts, and what SIGTERM does to it."""

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import HOLDTRUE, begin
from elastic_jobs import WAIT_S, ElasticJob

pytestmark = pytest.mark.process
HERE = Path(__file__).parent
MANIFESTS = HERE.parents[1] / "deploy" / "kubernetes"
TOKEN = "a-token-that-a-secret-holds"


def command_of(file: str, kind: str, changes: dict[str, str]) -> list[str]:
    """The command of a manifest's container, with what only a cluster has replaced."""
    documents: list[dict[str, Any]] = list(yaml.safe_load_all((MANIFESTS / file).read_text()))
    (document,) = [document for document in documents if document["kind"] == kind]
    words = document["spec"]["template"]["spec"]["containers"][0]["command"]
    for old, new in changes.items():
        assert any(old in word for word in words), f"{old} is not in the command"
        words = [word.replace(old, new) for word in words]
    assert words[0] == "holdtrue"
    return [HOLDTRUE, *words[1:]]


def test_pods_workers_wait_for_the_job_join_it_and_leave_at_sigterm(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        f"import sys; sys.path.append({str(HERE)!r})\nfrom fake_worker import *\nbe_elastic()\n"
    )
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    port = free_port()
    name = f"k{os.getpid()}"
    token = {"/etc/holdtrue": str(tmp_path)}
    worker = command_of("workers.yaml", "Deployment", token | {"digits:4100": f"localhost:{port}"})
    run = command_of(
        "job.yaml",
        "Job",
        token | {"$(POD_IP):4100": f"127.0.0.1:{port}", "name=digits": f"name={name}", "/runs/digits": "run"},
    )
    hosts = [begin(worker, cwd=tmp_path) for _ in range(2)]  # before there is a job, as pods may
    job = ElasticJob(folder=tmp_path, process=begin(run, cwd=tmp_path), name=name, hosts=hosts)
    try:
        job.wait_for_workers(3)
        assert Path(job.entry.join_file).read_text() == TOKEN
        hosts[0].send_signal(signal.SIGTERM)
        assert hosts[0].wait(WAIT_S) == 0, ended(hosts[0])
        job.wait_for_workers(2)
        job.process.send_signal(signal.SIGTERM)
        assert job.end().status == 130
        assert hosts[1].wait(WAIT_S) == 130, ended(hosts[1])
    finally:
        job.close()


def ended(process: subprocess.Popen[str]) -> str:
    return "".join(process.communicate(timeout=WAIT_S))


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
