"""What a timer that reads its clock a round late says of a step."""

from typing import ClassVar

import pytest

from holdtrue.engine._timing import PassTimer


class Late(PassTimer):
    """Told of each round's seconds when the next one begins, as CUDA's events are."""

    lag: ClassVar[int] = 1

    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[int, float] | None = None

    def begin(self, step: int, passes: int) -> None:
        """See `PassTimer.begin`; a round takes as many seconds as it has passes."""
        if self._last is not None:
            self._add(*self._last)
        self._last = step, float(passes)

    def end(self) -> None:
        """See `PassTimer.end`."""


def test_a_step_of_several_rounds_is_told_when_it_is_complete() -> None:
    timer, said = Late(), []
    for step in range(3):
        for passes in (3, 1):  # two rounds
            timer.begin(step, passes)
            said.append(timer.seconds_of(step))
    assert said == [None, None, 4.0, 4.0, 4.0, 4.0]


@pytest.mark.parametrize("steps", [1, 4])
def test_a_step_of_one_round_is_that_before(steps: int) -> None:
    timer = Late()
    said = []
    for step in range(steps):
        timer.begin(step, step + 1)
        said.append(timer.seconds_of(step))
    assert said == [None, 1.0, 2.0, 3.0][:steps]
