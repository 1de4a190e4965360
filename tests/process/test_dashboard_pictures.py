"""The pictures of the cluster's page in the docs are made here, of a cluster with an afternoon behind it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dashboard_clusters import RECENT, PaperCluster, open_cluster, paper_cluster, wait_for_job, write_past
from dashboard_pages import DESKTOP, PHONE, Dashboard, browser, dashboard

__all__ = ["browser", "dashboard"]
pytestmark = [pytest.mark.process, pytest.mark.browser]

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"


@pytest.fixture(scope="module")
def cluster(dashboard: Dashboard) -> Iterator[PaperCluster]:
    folder = dashboard.folder / "cluster"
    folder.mkdir(mode=0o700)
    write_past(folder, RECENT)
    with paper_cluster(folder) as running:
        running.fill()
        yield running


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "size"), [("phone", PHONE), ("desktop", DESKTOP)])
def test_the_pictures_in_the_docs_are_of_the_clusters_page(
    browser: Any, dashboard: Dashboard, cluster: PaperCluster, tmp_path: Path, scheme: str, name: str,
    size: dict[str, int],
) -> None:  # fmt: skip
    context = browser.new_context(
        viewport=size, color_scheme=scheme, device_scale_factor=1, timezone_id="UTC", locale="en-GB"
    )
    shown = context.new_page()
    open_cluster(shown, dashboard)
    wait_for_job(shown, "running", "reviews")
    assert shown.evaluate("document.documentElement.scrollWidth") <= size["width"], (
        "the page is wider than the screen"
    )
    target = tmp_path / f"cluster-{name}-{scheme}.png"
    shown.screenshot(path=str(target))
    assert target.stat().st_size < 200_000
    if (name, scheme) in (("desktop", "light"), ("phone", "dark")) and os.environ.get("HOLDTRUE_DRAW") == "1":
        (PICTURES / target.name).write_bytes(target.read_bytes())
    if keep := os.environ.get("HOLDTRUE_KEEP_PICTURES"):
        (Path(keep) / target.name).write_bytes(target.read_bytes())
    context.close()
