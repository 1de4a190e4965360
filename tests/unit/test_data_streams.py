"""The host's random streams."""

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from holdtrue.data import (
    _stream_memory,
    _streams,
    restore_host_streams,
    save_host_streams,
    set_host_streams,
    torch_state_of,
)
from holdtrue.data._stream_memory import stream_memory
from holdtrue.numerics import close_initial, open_initial
from holdtrue.plan import stream_key

KEY = 0x123456789ABCDEF0


def draw() -> list[Any]:
    """A draw from each stream; an odd number of normal samples, so that NumPy keeps one back."""
    return [
        torch.randint(0, 2**31, (4,)).tolist(),
        torch.randn(3).tolist(),
        random.random(),
        random.gauss(0, 1),
        np.random.randint(0, 2**31, 3).tolist(),
        np.random.randn(3).tolist(),
    ]


@pytest.fixture(autouse=True, params=["memory", "calls"])
def streams_of_the_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every test, with states copied where the generators keep them, and set by the generators' own calls."""
    if request.param == "calls":
        monkeypatch.setattr(_streams, "stream_memory", lambda: None)
    else:
        assert stream_memory() is not None, "this build of torch, Python or NumPy is laid out otherwise"
    saved = save_host_streams()
    set_host_streams(0)
    yield
    restore_host_streams(saved)


def test_the_streams_of_a_key_are_the_ones_that_were_written_down() -> None:
    set_host_streams(KEY)
    assert torch.randint(0, 2**31, (4,)).tolist() == [1982893890, 1292947033, 1600579913, 453547400]
    assert [random.getrandbits(32) for _ in range(3)] == [3646699384, 2523371432, 4144361526]
    assert np.random.randint(0, 2**31, 3).tolist() == [315604875, 1865793261, 1721025257]


def test_what_is_drawn_depends_on_the_key_alone() -> None:
    set_host_streams(KEY)
    first = draw()
    np.random.randn(1), random.gauss(0, 1), torch.randn(1)  # a normal sample kept back must not survive
    set_host_streams(KEY)
    assert draw() == first


@pytest.mark.parametrize("other", [KEY + 1, KEY ^ 1 << 40, KEY ^ 1 << 63])
def test_every_stream_uses_the_high_bits_of_the_key_too(other: int) -> None:
    set_host_streams(KEY)
    first = draw()
    set_host_streams(other)
    assert all(a != b for a, b in zip(first, draw(), strict=True))


def test_saved_streams_go_on_as_if_nothing_had_happened() -> None:
    set_host_streams(KEY)
    draw()
    expected = draw() + draw()
    set_host_streams(KEY)
    draw()
    found = draw()
    saved = save_host_streams()
    set_host_streams(7)
    draw()
    set_host_streams(8)
    draw()
    restore_host_streams(saved)
    assert found + draw() == expected


def test_saves_nest() -> None:
    set_host_streams(KEY)
    expected = draw() + draw()
    set_host_streams(9)
    nine = draw() + draw()
    set_host_streams(KEY)
    found = draw()
    outer = save_host_streams()
    set_host_streams(9)
    found_nine = draw()
    inner = save_host_streams()
    set_host_streams(10)
    draw()
    restore_host_streams(inner)
    assert found_nine + draw() == nine
    restore_host_streams(outer)
    assert found + draw() == expected


@pytest.mark.parametrize("make", [np.random.MT19937, np.random.PCG64])
def test_the_users_own_numpy_generator_is_put_back_untouched(make: Callable[[int], Any]) -> None:
    own, twin = make(5), make(5)
    outer = save_host_streams()
    np.random.set_bit_generator(own)
    np.random.randn(1)
    kept = np.random.get_state(legacy=False)["gauss"]
    saved = save_host_streams()
    set_host_streams(KEY)
    np.random.seed(3)
    np.random.randn(4)
    restore_host_streams(saved)
    assert np.random.get_bit_generator() is own
    assert np.random.randn() == kept
    after = np.random.randint(0, 2**31, 5).tolist()
    np.random.set_bit_generator(twin)
    np.random.randn(2)
    assert after == np.random.randint(0, 2**31, 5).tolist()
    restore_host_streams(outer)


def test_setting_streams_often_does_not_pile_up_generators() -> None:
    for key in range(20):
        saved = save_host_streams()
        set_host_streams(key)
        restore_host_streams(saved)
    assert len(_streams._spare) <= 4


def test_what_the_user_seeds_in_a_pass_leaves_nothing_for_the_next_one() -> None:
    set_host_streams(KEY)
    first = draw()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    draw()
    np.random.set_bit_generator(np.random.PCG64(3))
    np.random.randn(1)
    set_host_streams(KEY)
    assert draw() == first


def test_what_was_kept_back_is_given_out_after_a_restore() -> None:
    set_host_streams(KEY)
    draw()
    first = [torch.randn(1).item(), random.gauss(0, 1), np.random.randn(), *draw()]
    set_host_streams(KEY)
    draw()
    kept = save_host_streams()
    set_host_streams(5)
    draw()
    restore_host_streams(kept)
    assert [torch.randn(1).item(), random.gauss(0, 1), np.random.randn(), *draw()] == first


def test_torch_streams_of_different_keys_are_normal_and_independent() -> None:
    generator = torch.Generator()
    rows = []
    for step in range(500):
        generator.set_state(torch_state_of(stream_key(0, "pass", step, 0, 0)))
        rows.append(torch.randn(400, generator=generator, dtype=torch.float64))
    x = torch.stack(rows)  # 200,000 samples: the bounds are 4 standard errors
    assert abs(x.mean().item()) < 4 / 200_000**0.5
    assert abs(x.var().item() - 1) < 4 * (2 / 200_000) ** 0.5
    assert abs((x[:-1] * x[1:]).mean().item()) < 4 / 200_000**0.5
    assert len({tuple(row[:2].tolist()) for row in rows}) == 500


def test_neighbouring_keys_share_no_word_of_the_torch_state() -> None:
    words = [torch_state_of(key).view(torch.int64)[3:627] for key in range(64)]
    assert all(w.count_nonzero() > 600 for w in words)
    assert all(w.min() >= 0 and w.max() < 2**32 for w in words)
    agreeing = sum(int((a == b).sum()) for a in words for b in words if a is not b)
    assert agreeing == 0


def test_torch_reports_the_whole_key_as_its_seed() -> None:
    set_host_streams(2**64 - 2)
    assert torch.initial_seed() == 2**64 - 2


def test_memory_and_calls_make_the_same_states(monkeypatch: pytest.MonkeyPatch) -> None:
    def states() -> list[Any]:
        found = []
        for key in (0, 1, 2**32, KEY, 2**64 - 1):
            set_host_streams(key)
            for _ in range(3):
                numpy = np.random.get_state(legacy=False)
                found += [torch.get_rng_state().tolist(), random.getstate(), numpy["state"]["key"].tolist()]
                found += [numpy["has_gauss"], numpy["state"]["pos"], draw()]
        return found

    first = states()
    with monkeypatch.context() as patch:
        patch.setattr(_streams, "stream_memory", lambda: None)
        assert states() == first


@pytest.mark.parametrize("failing", ["_python_state", "_torch_place", "_gauss_offset"])
def test_calls_are_used_where_one_generator_is_laid_out_otherwise(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stream_memory, failing, lambda *generator: None)
    assert stream_memory.__wrapped__() is None


def test_the_trial_notices_samples_that_would_stay_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stream_memory, "_SAMPLE_BYTES", 0)
    assert _stream_memory._torch_place() is None


def test_the_trial_does_not_depend_on_torchs_defaults() -> None:
    with torch.device("meta"):
        torch.set_default_dtype(torch.float64)
        try:
            assert stream_memory.__wrapped__() is not None
        finally:
            torch.set_default_dtype(torch.float32)


def test_the_trial_is_torchs_own_at_level_portable_too() -> None:
    open_initial()
    try:
        assert stream_memory.__wrapped__() is not None
        with _RefusingFunctions():
            assert stream_memory.__wrapped__() is not None
    finally:
        close_initial()


class _RefusingFunctions(TorchFunctionMode):
    """Stands for a mode of the user's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} was asked of the mode")


def test_the_trial_refuses_a_state_without_a_normal_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    own = _stream_memory._draw_samples
    monkeypatch.setattr(_stream_memory, "_draw_samples", lambda generator, count: own(generator, 16))
    assert _stream_memory._torch_place() is None


def test_another_thread_does_not_come_between_seeding_and_reading() -> None:
    memory = stream_memory.__wrapped__()
    assert memory is not None
    expected = memory.python_image(0)
    memory.scratch.generator.seed(0)
    thread = threading.Thread(target=memory.python_image, args=(1,))
    thread.start()
    thread.join(10)
    assert memory.scratch.state is not None
    assert memory.scratch.state.tobytes() == expected


def test_no_byte_behind_torchs_generator_is_copied() -> None:
    """624 words, 4 bytes to the next multiple of 8, a float and a double with a flag each: the end of CPUGeneratorImpl."""
    place = _stream_memory._torch_place()
    assert place is not None
    start, stop, _ = place
    assert stop - start <= 20 + 4 * 624 + 4 + 8 + 16
