"""A signal at a process's very end, when the run is closed, shows no traceback."""

import os
import signal
from collections.abc import Iterator

import pytest

from holdtrue.run import _edge


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_edge, "_installed_in", os.getpid())
    monkeypatch.setattr(_edge, "_present", None)
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    for signum in before:
        signal.signal(signum, _edge._interrupt)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("in_job", [True, False])
def test_a_process_that_has_closed_its_run_is_interrupted_as_any_other(
    in_job: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a job its status is its script's, and its host ends it if it hangs; alone it is a plain process."""
    monkeypatch.setattr(_edge, "_worker", object() if in_job else None)
    _edge._finish()
    found = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    alone = [signal.default_int_handler, signal.SIG_DFL]
    assert found == ([signal.SIG_IGN] * 2 if in_job else alone)
