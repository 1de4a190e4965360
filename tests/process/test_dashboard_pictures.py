"""The pictures of the cluster's page in the docs are made here, of a cluster with an afternoon behind it."""

from collections.abc import Iterator
from typing import Any

import pytest
from dashboard_clusters import RECENT, PaperCluster, open_cluster, paper_cluster, wait_for_job, write_past
from dashboard_pages import Dashboard, browser, dashboard, on_every_screen, photograph

__all__ = ["browser", "dashboard"]
pytestmark = [pytest.mark.process, pytest.mark.browser]


@pytest.fixture(scope="module")
def cluster(dashboard: Dashboard) -> Iterator[PaperCluster]:
    folder = dashboard.folder / "cluster"
    folder.mkdir(mode=0o700)
    write_past(folder, RECENT)
    with paper_cluster(folder) as running:
        running.fill()
        yield running


@on_every_screen
def test_the_pictures_in_the_docs_are_of_the_clusters_page(
    browser: Any, dashboard: Dashboard, cluster: PaperCluster, screen: str, scheme: str
) -> None:
    def go(page: Any) -> None:
        open_cluster(page, dashboard)
        wait_for_job(page, "running", "reviews")

    photograph(browser, "cluster", screen, scheme, go=go)
