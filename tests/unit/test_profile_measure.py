"""From measured trials to a profile, and the timer of passes that is always on."""

import time
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import holdtrue as ht
from holdtrue.engine import HostTimer, PassTimer
from holdtrue.errors import UsageError
from holdtrue.profile import DeviceFacts, Trial, assemble_device, fit_exchange, sizes_of_interest
from holdtrue.testing import run_in_process

FACTS = DeviceFacts(
    kind="cpu",
    name="One core",
    torch_version="2.13.0",
    threads=1,
    memory_bytes=None,
    model_hash="ab12",
    gradient_bytes=1_000_000,
    virtual_nodes=8,
    global_batch_size=128,
    numerics="exact",
)


def trial(
    size: int, workers: int, rank: int, pass_s: float, rest_s: float, *, repeat: int = 0, peak: int = 100
) -> Trial:
    passes_s = tuple(4 * pass_s * k for k in (0.5, 1.0, 1.0, 1.0, 30.0))  # medians must not mind the ends
    return Trial(
        batch_size=size,
        workers=workers,
        rank=rank,
        repeat=repeat,
        passes=4,
        passes_s=passes_s,
        steps_s=tuple(p + rest_s for p in passes_s),
        peak_bytes=peak,
    )


def test_a_device_profile_is_medians_of_passes_fixed_part_and_what_is_left_for_the_exchange() -> None:
    trials = [
        trial(16, 1, 0, 0.009, 0.002),
        *(trial(16, 2, r, 0.010, 0.005, repeat=k, peak=100 + r) for r in (0, 1) for k in (0, 1)),
        *(trial(32, 2, r, 0.018, 0.005) for r in (0, 1)),
    ]
    # 1 MB in 1 ms and 9 MB in 9 ms: 1 GB/s without latency; steps leave 5 - 2 ms for 2 * 1 MB / 2 = 1 ms and latency.
    found = assemble_device(FACTS, trials, [(1_000_000, 0.001), (9_000_000, 0.009)], date="2026-11-25")
    assert [(p.batch_size, round(p.seconds, 9)) for p in found.points] == [(16, 0.010), (32, 0.018)]
    assert found.points[0].peak_bytes == 101
    assert found.points[0].spread == 0.0
    assert found.fixed_s == pytest.approx(0.002)
    assert found.exchange_bytes_per_s == pytest.approx(1e9)
    assert found.exchange_latency_s == pytest.approx(0.002)
    assert (found.kind, found.name, found.torch_version, found.threads) == ("cpu", "One core", "2.13.0", 1)


def test_the_exchange_is_what_a_step_takes_beyond_its_slowest_worker() -> None:
    quick, slow = trial(16, 2, 0, 0.010, 0.009), trial(16, 2, 1, 0.012, 0.001)
    found = assemble_device(FACTS, [trial(16, 1, 0, 0.010, 0.0), quick, slow], [], date="2026-11-25")
    # Worker 0's steps take 4 x 10 + 9 ms, and the slowest passes 48 ms.
    assert found.exchange_latency_s == pytest.approx(0.001, abs=1e-6)


def test_the_lone_factor_is_a_pass_alone_over_one_in_company_and_never_above_one() -> None:
    company = [trial(16, 2, r, 0.010, 0.001) for r in (0, 1)]
    for alone_s, factor in ((0.009, 0.9), (0.012, 1.0)):
        found = assemble_device(FACTS, [trial(16, 1, 0, alone_s, 0.0), *company], [], date="2026-11-25")
        assert found.lone_factor == pytest.approx(factor)


def test_the_spread_of_repeats_is_recorded() -> None:
    trials = [trial(8, 1, 0, s, 0.001, repeat=k) for k, s in enumerate((0.010, 0.011, 0.012))]
    (point,) = assemble_device(FACTS, trials, [], date="2026-11-25").points
    assert point.seconds == pytest.approx(0.011)
    assert point.spread == pytest.approx(0.002 / 0.011)


def test_one_device_alone_has_no_exchange_and_failed_sizes_are_left_out() -> None:
    bad = Trial(
        batch_size=64, workers=1, rank=0, repeat=0, passes=4, passes_s=(), steps_s=(), error="out of memory"
    )
    found = assemble_device(FACTS, [trial(8, 1, 0, 0.01, 0.001), bad], [], date="2026-11-25")
    assert [p.batch_size for p in found.points] == [8]
    assert (found.exchange_bytes_per_s, found.exchange_latency_s) == (None, 0.0)
    with pytest.raises(UsageError, match=r"no pass could be measured on cpu \(out of memory\)"):
        assemble_device(FACTS, [bad], [], date="2026-11-25")


def test_a_bandwidth_is_not_guessed_from_noise() -> None:
    assert fit_exchange([]) == (None, 0.0)
    assert fit_exchange([(100, 0.001)]) == (None, 0.0)
    assert fit_exchange([(100, 0.002), (1000, 0.001)]) == (None, 0.002)


@given(batch=st.integers(1, 10_000), virtual_nodes=st.integers(1, 10_000))
@settings(deadline=None, derandomize=True)
def test_sizes_of_interest_are_powers_of_two_within_the_batch_and_the_plans_own(
    batch: int, virtual_nodes: int
) -> None:
    sizes = sizes_of_interest(batch, min(virtual_nodes, batch))
    own = -(-batch // min(virtual_nodes, batch))
    assert own in sizes
    assert sorted(set(sizes)) == list(sizes)
    powers = [size for size in sizes if size != own]
    assert all(size & (size - 1) == 0 and size <= batch for size in powers)
    assert all(b == 2 * a for a, b in pairwise(powers) if own not in range(a, b))


class Scripted(PassTimer):
    """Is told seconds in place of measuring them."""

    def begin(self, step: int, passes: int) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def tell(self, step: int, seconds: float) -> None:
        self._add(step, seconds)


def test_the_estimate_is_the_median_of_the_latest_steps_and_rounds_of_a_step_count_together() -> None:
    timer = Scripted()
    assert (timer.pass_s, timer.seconds_of(0)) == (None, None)
    for step, seconds in enumerate((9.0, 9.0, 1.0, 1.0, 1.0, 1.0, 50.0, 1.0)):
        timer.tell(step, seconds)
    assert (timer.pass_s, timer.seconds_of(7)) == (1.0, 1.0)
    assert timer.seconds_of(8) is None, "it ran no pass in that step"
    timer.tell(8, 2.0)
    timer.tell(8, 3.0)  # the second round of a step
    assert timer.seconds_of(8) == 5.0
    alternating = Scripted()
    for step in range(9):
        alternating.tell(step, 1.0 + step % 2)
    assert alternating.pass_s == 1.5


def test_the_timer_costs_less_than_a_microsecond_a_pass_when_a_round_has_two() -> None:
    # Not a limit on this machine's speed: both are loops of the interpreter, so their ratio says it.
    timer, rounds = HostTimer(), 5000

    def best(work: object) -> float:
        took = []
        for _ in range(7):
            began_s = time.perf_counter()
            for step in range(rounds):
                if work is timer:
                    timer.begin(step, 2)
                    timer.end()
                else:
                    time.perf_counter()
            took.append(time.perf_counter() - began_s)
        return min(took)

    assert best(timer) < 60 * best(None)


def test_every_worker_of_a_run_knows_the_time_of_its_passes_and_a_standby_has_none() -> None:
    def main() -> float | None:
        run = ht.init(virtual_nodes=3, global_batch_size=6)
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.prepare(model, optimizer)
        data = torch.utils.data.TensorDataset(torch.ones(24, 3), torch.ones(24, 1))
        for step in run.steps(data):
            for x, y in step:
                step.backward(torch.nn.functional.mse_loss(model(x), y))
            step.update()
        return run._core.engine.timer.pass_s

    first, second, third = run_in_process(main, mapping="0/1-2/none")
    assert first is not None
    assert second is not None
    assert first > 0
    assert second > 0
    assert third is None
