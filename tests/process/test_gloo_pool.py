"""The pool of the tests themselves: what breaks in it is said, and never hangs."""

import os
import signal
from pathlib import Path

import pytest

from pool import Pool, PoolError, Seat

pytestmark = pytest.mark.process


def shake_hands(seat: Seat) -> list[bytes]:
    return list(seat.group().gather_bytes(bytes([seat.rank]), what="hands"))


def second_dies(seat: Seat) -> None:
    group = seat.group()
    if seat.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    group.gather_bytes(b"", what="the dead")


def second_hangs(seat: Seat) -> None:
    if seat.rank == 1:
        signal.pause()


def second_raises(seat: Seat) -> None:
    group = seat.group()
    if seat.rank == 1:
        raise LookupError("the second member's own words")
    group.gather_bytes(b"", what="the second member")


@pytest.mark.slow
def test_a_member_that_dies_hangs_or_raises_ends_its_case_with_a_sentence_and_the_next_one_runs() -> None:
    with Pool(size=2) as pool:
        assert pool.each(shake_hands, world_size=2) == [[b"\0", b"\1"]] * 2
        first = pool.pids()
        with pytest.raises(PoolError, match="LookupError: the second member's own words"):
            pool.each(second_raises, world_size=2)
        assert pool.pids() == first
        with pytest.raises(PoolError, match=r"member 1 of the gloo pool died in the case .* exit status -9"):
            pool.each(second_dies, world_size=2)
        assert pool.each(shake_hands, world_size=2) == [[b"\0", b"\1"]] * 2
        with pytest.raises(PoolError, match="member 1 of the gloo pool had not answered after 1 s"):
            pool.each(second_hangs, world_size=2, timeout_s=1.0)
        started = pool.pids()
    assert not any(Path(f"/proc/{pid}").exists() for pid in (*first, *started))
