"""The peak of a pass is what a mapping's model may add waiting sums to: the trial's own are not in it."""

import pytest
import torch

from holdtrue.run import _peak
from holdtrue.run._peak import WAITING, PeakWatch
from holdtrue.solve._layout import blocks_of, gradients_held

BASE, SET = 1000, 100


class Memory:
    """A process that holds `BASE`, an activation, and as many sets of gradients as a tree of four passes needs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.peak = 0
        monkeypatch.setattr(_peak, "reset_peak", lambda device: setattr(self, "peak", 0))
        monkeypatch.setattr(_peak, "give_back_memory", lambda device: None)
        monkeypatch.setattr(_peak, "read_peak", lambda device: self.peak)
        self.watch = PeakWatch(torch.device("cpu"))

    def use(self, size: int) -> None:
        self.peak = max(self.peak, size)

    def step(self, *, closely: bool, activations: int = 50, update: int = 0) -> None:
        self.watch.begin_step(closely=closely)
        for sets in (1, 2, 2, 3):
            self.watch.begin_pass()
            self.use(BASE + activations + sets * SET)
        self.watch.end_passes()
        self.use(BASE + SET + update)


def test_the_sets_that_are_taken_off_are_those_that_the_cost_model_charges() -> None:
    charged = [gradients_held(blocks_of(tuple(range(n)), 8)) - 1 for n in (1, 2, 3, 4)]
    assert list(WAITING) == charged


def test_the_trials_own_waiting_sums_are_not_in_the_peak_of_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch)
    for number in range(6):
        memory.step(closely=number == 1)
    assert memory.watch.peak_bytes(SET) == BASE + 50 + SET


def test_what_the_update_needs_more_than_a_pass_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch)
    for number in range(6):
        memory.step(closely=number == 1, update=700)
    assert memory.watch.peak_bytes(SET) == BASE + SET + 700


def test_longer_examples_in_a_later_step_count(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch)
    for number in range(6):
        memory.step(closely=number == 1, activations=500 if number == 4 else 50)
    assert memory.watch.peak_bytes(SET) == BASE + 500 + SET
    assert PeakWatch(torch.device("cpu")).peak_bytes(SET) == memory.peak, (
        "of a trial that was too short nothing is known"
    )


def test_a_peak_that_cannot_be_read_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch)
    monkeypatch.setattr(_peak, "read_peak", lambda device: None)
    memory.step(closely=True)
    memory.step(closely=False)
    assert memory.watch.peak_bytes(SET) is None
