"""The scheduler on paper that the browser's tests look at: it runs with the engines' interface of now."""

import time
from pathlib import Path

import pytest
from commands import LIMIT_S
from dashboard_clusters import PaperCluster, paper_cluster

pytestmark = pytest.mark.process


def test_jobs_on_paper_run_and_end(tmp_path: Path) -> None:
    with paper_cluster(tmp_path) as cluster:
        cluster.fill()
        wait_for(cluster, "running", 3)
        cluster.write(digits={"step": 400, "total": 400, "status": 0})
        wait_for(cluster, "finished", 1)


def wait_for(cluster: PaperCluster, state: str, jobs: int) -> None:
    until_s = time.monotonic() + LIMIT_S
    while (found := cluster.client.queue()["counts"][state]) < jobs:
        assert time.monotonic() < until_s, f"{found} of {jobs} jobs are {state} after {LIMIT_S} s"
        time.sleep(0.05)
