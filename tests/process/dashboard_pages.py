"""A dashboard and a headless browser. Playwright drives the Chromium that the machine has; it downloads none."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from commands import HOLDTRUE, LIMIT_S, environment

from holdtrue.plan import Plan
from holdtrue.record import RunDirectory

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Dashboard(NamedTuple):
    """A dashboard that runs."""

    url: str
    token: str
    folder: Path
    env: dict[str, str]


@pytest.fixture(
    scope="module"
)  # a module imports it, so that a session would open it once for each all the same
def browser() -> Iterator[Any]:
    """Chromium, or a skip where the machine has none."""
    library = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make browser")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium on this machine (Debian: apt install chromium)")
    with library.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield opened
        opened.close()


PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
IN_DOCS = (("desktop", "light"), ("phone", "dark"))
"""Of which screens the docs have pictures."""
on_every_screen = pytest.mark.parametrize(
    ("screen", "scheme"),
    [(screen, scheme) for screen in ("phone", "desktop") for scheme in ("light", "dark")],
)


def photograph(
    browser: Any, name: str, screen: str, scheme: str, *, go: Callable[[Any], object], is_whole: bool = False
) -> None:
    """A picture of a page, no wider than the screen and small; it becomes the docs' with HOLDTRUE_DRAW=1.

    Args:
        browser: Chromium.
        name: What the picture's file begins with.
        screen: phone or desktop.
        scheme: light or dark.
        go: Opens what is to be seen.
        is_whole: The picture has what one must scroll to.
    """
    size = {"phone": PHONE, "desktop": DESKTOP}[screen]
    context = browser.new_context(
        viewport=size, color_scheme=scheme, device_scale_factor=1, timezone_id="UTC", locale="en-GB"
    )
    shown = context.new_page()
    go(shown)
    assert shown.evaluate("document.documentElement.scrollWidth") <= size["width"], (
        "the page is wider than the screen"
    )
    picture = shown.screenshot(full_page=is_whole)
    context.close()
    assert len(picture) < 200_000
    if (screen, scheme) in IN_DOCS and os.environ.get("HOLDTRUE_DRAW") == "1":
        (PICTURES / f"{name}-{screen}-{scheme}.png").write_bytes(picture)


@pytest.fixture
def page(browser: Any, dashboard: Dashboard) -> Iterator[Any]:
    """A page that records what it asks for and what goes wrong."""
    opened = browser.new_context(viewport=DESKTOP)
    shown = opened.new_page()
    shown.asked, shown.wrong = [], []
    shown.on("request", lambda request: shown.asked.append(request.url))
    shown.on("pageerror", lambda error: shown.wrong.append(str(error)))
    shown.on("console", lambda message: shown.wrong.append(message.text) if message.type == "error" else None)
    yield shown
    assert [url for url in shown.asked if not url.startswith(dashboard.url)] == [], (
        "a request left the machine"
    )
    assert shown.wrong == []
    opened.close()


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """A dashboard of an empty machine; tests put jobs and runs into its folder."""
    folder = tmp_path_factory.mktemp("dashboard")
    extra = {"XDG_RUNTIME_DIR": str(folder / "xdg"), "HOLDTRUE_CLUSTER": str(folder / "cluster")}
    process = subprocess.Popen(
        [HOLDTRUE, "dashboard"],
        cwd=folder,
        env=environment(extra),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"(http://\S+); .* the token in (\S+)$", line)
    assert found is not None, line
    try:
        yield Dashboard(found[1], Path(found[2]).read_text(), folder, extra)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
        assert not Path(found[2]).exists(), "the token's file stays"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stderr.close()


def write_run(folder: Path, steps: int, *, name: str, evil: str = "", worse: float = 0.0) -> Path:
    """A run directory as runs write it: a loss that falls, two changes of membership, digests."""
    path = folder / "runs" / name
    plan = Plan(virtual_nodes=7, global_batch_size=70, seed=3)
    environment: dict[str, Any] = {"device": {"type": "cpu", "name": evil or "cpu"}}
    changes = {
        steps // 3: (3, "0-1/2-3/4-6", "workers 1, 2 joined"),
        2 * steps // 3: (2, "0-2/3-6", "worker 2 left"),
    }
    with RunDirectory.create(
        path, plan=plan, environment=environment, generation=1, resume=False, workers=(0,)
    ) as run:
        for step in range(steps):
            if step in changes:
                run.generation += 1
                workers, mapping, reason = changes[step]
                run.append_event(
                    "resize",
                    step=step,
                    reason=f"{reason}{evil}",
                    details={
                        "workers": list(range(workers)),
                        "devices": ["cpu"] * workers,
                        "mapping": mapping,
                        "pass_s": [0.0041 + 0.0006 * worker for worker in range(workers)],
                    },
                )
            run.append_step(
                step=step,
                epoch=step // 100,
                loss=3.0 / (1 + step / steps * 20) + 0.05 * ((step * 7919) % 13) / 13 + worse,
                seconds=0.02 + 0.01 * (run.generation == 1),
                digest=hashlib.sha256(bytes(step)).hexdigest() if step % max(1, steps // 20) == 0 else None,
            )
    return path


def read_lines(path: Path) -> list[Any]:
    """The objects of a file of lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]
