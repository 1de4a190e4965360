"""The cluster's page in a real browser: queue and allocation are what the scheduler's log says, live, and small."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from commands import LIMIT_S
from dashboard_clusters import PaperCluster, devices_at, open_cluster, paper_cluster, wait_for_job, write_past
from dashboard_pages import Dashboard, browser, dashboard, page

from holdtrue.cluster import LogRecord

__all__ = ["browser", "dashboard", "page"]
pytestmark = [pytest.mark.process, pytest.mark.browser]

PAST = 5000
MOST_PAGE_BYTES = 250_000
EVIL = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"

READ_BLOCKS = """() => {
  const svg = document.querySelector("svg.alloc"), lines = [...svg.querySelectorAll("line.grid")];
  const of = (element, name) => Number(element.getAttribute(name));
  const top = of(lines[0], "y1"), row = of(lines[1], "y1") - top, left = of(lines[0], "x1"), right = of(lines[0], "x2");
  const from = Number(svg.dataset.from), until = Number(svg.dataset.until);
  const time = (x) => from + (x - left) / (right - left) * (until - from);
  const blocks = [...svg.querySelectorAll("rect.block")].map((rect) => ({
    block: Number(rect.dataset.block), start: time(of(rect, "x")), stop: time(of(rect, "x") + of(rect, "width")),
    first: Math.round((of(rect, "y") - top) / row), rows: Math.round((of(rect, "height") + 1) / row),
  }));
  return { from, until, blocks, jobs: cluster.blocks.map((block) => block.number) };
}"""


@pytest.fixture(scope="module")
def cluster(dashboard: Dashboard) -> Iterator[PaperCluster]:
    """A cluster with thousands of jobs behind it, two that run and one that waits."""
    folder = dashboard.folder / "cluster"
    folder.mkdir(mode=0o700)
    write_past(folder, PAST, ending=f"It finished. {EVIL}")
    with paper_cluster(folder) as running:
        running.fill()
        yield running


def read_blocks(page: Any) -> tuple[float, float, list[dict[str, Any]]]:
    """Window and blocks as they are drawn: job, times by their place on the chart, rows by their height."""
    found = page.evaluate(READ_BLOCKS)
    blocks = [block | {"job": found["jobs"][block["block"]]} for block in found["blocks"]]
    return found["from"], found["until"], blocks


def check_against_log(log: list[LogRecord], window: tuple[float, float, list[dict[str, Any]]]) -> int:
    """Who is drawn on how many devices at every moment of the window is who had them; how many moments that were."""
    from_s, until_s, blocks = window
    times = sorted({record.time_s for record in log if from_s < record.time_s < until_s} | {from_s, until_s})
    moments = [(a + b) / 2 for a, b in pairwise(times) if b - a > 0.02 * (until_s - from_s) / len(times)]
    for time_s in moments:
        shown: dict[int, int] = {}
        filled: list[int] = []
        for block in blocks:
            if block["start"] <= time_s < block["stop"]:
                shown[block["job"]] = shown.get(block["job"], 0) + block["rows"]
                filled += range(block["first"], block["first"] + block["rows"])
        assert shown == {job: grant.devices for job, grant in devices_at(log, time_s).items()}, time_s
        assert len(set(filled)) == len(filled), "a device is drawn for two jobs"
    return len(moments)


def test_queue_and_allocation_are_those_of_the_log(
    page: Any, dashboard: Dashboard, cluster: PaperCluster
) -> None:
    open_cluster(page, dashboard)
    wait_for_job(page, "running", "reviews")
    wait_for_job(page, "waiting", "big-batch")
    queue = cluster.client.queue("open")
    assert page.locator("h2", has_text="Running: ").inner_text() == "Running: 3"
    assert page.locator("h2", has_text="Waiting: ").inner_text() == "Waiting: 1"
    over = page.locator("h2", has_text="Over: ").inner_text()
    assert over == "Over: 5,000 (5,000 finished, 0 failed, 0 cancelled)"
    for job in queue["jobs"]:
        row = page.locator(f"#{job['state']} tr", has_text=job["name"])
        cells = [cell.inner_text() for cell in row.locator("td").all()]
        assert cells[0] == f"{job['name']} #{job['number']}"
        assert cells[1] == job["queue"]
        if job["state"] == "running":
            assert cells[2] == f"{job['devices']} of 1 to {job['max_devices']}"
            assert cells[3] == f"{job['step']}/{job['total']}"
        else:
            assert cells[2] == "4"
            assert re.fullmatch(r"\d+ (s|min)( \d+ s)?", cells[3])
    assert page.locator("#over tbody tr").count() == 50
    assert page.locator("#over .rest").inner_text().startswith("4,950 more")
    assert page.locator("#over td.name").first.inner_text() == f"past-{PAST} #{PAST}"
    log = cluster.client.log()
    assert check_against_log(log, read_blocks(page)) > 200
    # And everything before, window by window.
    page.get_by_role("link", name="Earlier").click()
    page.wait_for_selector("main[data-drawn]")
    page.get_by_role("link", name="Newest").wait_for()
    assert check_against_log(log, read_blocks(page)) > 200


def test_the_table_says_the_same_as_the_chart(page: Any, dashboard: Dashboard, cluster: PaperCluster) -> None:
    open_cluster(page, dashboard)
    wait_for_job(page, "running", "reviews")
    page.get_by_text("The same as a table").focus()
    page.keyboard.press("Enter")
    rows = page.locator("details tbody tr")
    rows.first.wait_for()
    shown = [[cell.inner_text() for cell in row.locator("td").all()] for row in rows.all()[:4]]
    held = {
        f"{job['name']} #{job['number']}": f"{job['devices']} cpu"
        for job in cluster.client.queue("open")["jobs"]
        if job["devices"]
    }
    assert {row[0]: row[1] for row in shown if row[3] == ""} == held
    page.locator("svg.alloc").focus()
    page.keyboard.press("End")
    readout = page.locator(".readout").inner_text()
    assert any(
        readout.startswith(f"{name.replace(' #', ' (#')}): {devices}") for name, devices in held.items()
    )
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator(".readout").inner_text().startswith("past-")


def test_the_page_follows_the_cluster_without_being_asked(
    page: Any, dashboard: Dashboard, cluster: PaperCluster
) -> None:
    open_cluster(page, dashboard)
    wait_for_job(page, "running", "reviews")
    cluster.submit("newcomer", max_devices=1, weight=50.0)
    wait_for_job(page, "running", "newcomer")
    cluster.write(newcomer={"step": 9, "total": 10})
    page.locator("#running tr", has_text="newcomer").get_by_text("9/10").wait_for(timeout=LIMIT_S * 1000)
    cluster.write(newcomer={"status": 1, "words": f"ValueError {EVIL}"})
    wait_for_job(page, "over", "newcomer")
    page.get_by_text("1 failed").wait_for(timeout=LIMIT_S * 1000)
    row = page.locator("#over tr", has_text="newcomer")
    assert EVIL in row.inner_text()
    assert page.locator("main img, main script").count() == 0
    assert "broken" not in page.title()
    newest = cluster.client.queue("open", most=1)["newest"]
    page.wait_for_function(f"Number(document.querySelector('main').dataset.drawn) >= {newest}")
    check_against_log(cluster.client.log(), read_blocks(page))


def test_what_troubles_the_scheduler_is_said_above_its_queue(
    page: Any, dashboard: Dashboard, cluster: PaperCluster
) -> None:
    cluster.write(trouble="no host of the cluster answers.")
    try:
        open_cluster(page, dashboard)
        page.get_by_text("no host of the cluster answers.").wait_for(timeout=LIMIT_S * 1000)
        wait_for_job(page, "running", "reviews")
    finally:
        cluster.write(trouble="")
    page.locator("p.trouble").wait_for(state="hidden", timeout=LIMIT_S * 1000)
    wait_for_job(page, "running", "reviews")


def test_a_page_of_thousands_of_jobs_is_small(page: Any, dashboard: Dashboard, cluster: PaperCluster) -> None:
    weights: dict[str, int] = {}
    page.on(
        "response", lambda answer: weights.update({answer.url: int(answer.headers.get("content-length", 0))})
    )
    open_cluster(page, dashboard)
    wait_for_job(page, "running", "reviews")
    answer = page.request.get(f"{dashboard.url}/api/cluster")
    weights[answer.url] = len(answer.body())
    print(
        f"the cluster's page after {PAST} jobs: {sum(weights.values())} bytes, {weights[answer.url]} of them facts"
    )
    assert sum(weights.values()) < MOST_PAGE_BYTES
    assert page.evaluate("document.querySelectorAll('*').length") < 4000


def test_the_clusters_page_can_be_reached_by_the_keyboard(
    page: Any, dashboard: Dashboard, cluster: PaperCluster
) -> None:
    open_cluster(page, dashboard)
    reached = set()
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "(document.activeElement.getAttribute('aria-label') || document.activeElement.textContent).slice(0, 18)"
            )
        )
    wanted = {"Skip to the conten", "Jobs", "Cluster", "Earlier", "Devices over time:", "The same as a tabl"}
    assert wanted <= reached
