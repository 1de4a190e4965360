"""When a controller counts as hanging, and that this has an end."""

from holdtrue.launch._restarts import HANG_WAIT_S, MOST_DEATHS, hangs, next_start_s


def test_a_controller_hangs_once_it_has_answered_nothing_since_its_start_or_its_last_answer() -> None:
    assert not hangs(started_s=100.0, answered_s=None, now_s=100.0 + HANG_WAIT_S - 0.1)
    assert hangs(started_s=100.0, answered_s=None, now_s=100.0 + HANG_WAIT_S)
    assert not hangs(started_s=100.0, answered_s=105.0, now_s=105.0 + HANG_WAIT_S - 0.1)
    assert hangs(started_s=100.0, answered_s=105.0, now_s=105.0 + HANG_WAIT_S)
    assert not hangs(started_s=100.0, answered_s=50.0, now_s=105.0), "the answer was another one's"


def test_controllers_that_all_hang_are_given_up() -> None:
    started_s: float | None = 100.0
    deaths_s: list[float] = []
    while started_s is not None:
        assert len(deaths_s) < MOST_DEATHS
        deaths_s.append(started_s + HANG_WAIT_S)
        started_s = next_start_s(deaths_s)
    assert deaths_s[-1] - 100.0 < 60.0
