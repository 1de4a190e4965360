"""Examples into passes: whatever comes, dies and leaves, each is in one pass at a time and none is lost."""

from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.serving import Batcher

ROOM = 3


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("puuuuffffjdlr"), st.integers(0, 10)), max_size=120))
def test_every_example_is_answered_once_or_given_up_whatever_joins_leaves_and_dies(
    events: list[tuple[str, int]],
) -> None:
    batcher = Batcher(virtual_nodes=5, room=ROOM)
    waiting: set[int] = set()
    passes: dict[tuple[int, int], tuple[int, ...]] = {}
    ended: set[int] = set()
    workers: set[int] = set()
    leaving: set[int] = set()
    count = number = 0

    def begin() -> None:
        for assigned in batcher.next_passes():
            assert 1 <= len(assigned.examples) <= ROOM
            assert assigned.worker in workers - leaving
            assert set(assigned.examples) <= waiting, "an example was in two passes"
            assert all(v != assigned.virtual_node for _, v in passes), "a virtual node had two passes"
            waiting.difference_update(assigned.examples)
            passes[assigned.worker, assigned.virtual_node] = assigned.examples
        per_worker = [sum(1 for w, _ in passes if w == worker) for worker in workers]
        assert max(per_worker, default=0) <= 2
        if waiting and workers - leaving:
            free = [w for w in workers - leaving if not any(x == w for x, _ in passes)]
            held = batcher.mapping.held if batcher.mapping else ()
            idle = [w for w in free if held[batcher.order.index(w)]]
            busy = {v for _, v in passes}
            assert not any(set(held[batcher.order.index(w)]) - busy for w in idle), (
                "a worker idles while examples wait"
            )

    for kind, pick in events:
        if kind in "pu":
            for _ in range(pick % 4 + 1):
                waiting.add(count)
                batcher.put(count)
                count += 1
        elif kind == "f" and passes:
            worker, virtual_node = sorted(passes)[pick % len(passes)]
            done = batcher.finish(worker, virtual_node)
            assert done == passes.pop((worker, virtual_node))
            ended |= set(done)
        elif kind == "j":
            workers.add(number)
            batcher.join(number)
            number += 1
        elif kind == "l" and workers - leaving:
            leaving.add(worker := sorted(workers - leaving)[pick % len(workers - leaving)])
            batcher.dismiss(worker)
        elif kind in "dr" and workers:
            worker = sorted(workers)[pick % len(workers)]
            mine = [key for key in passes if key[0] == worker]
            had = {example for key in mine for example in passes.pop(key)}
            lost = batcher.leave(worker)
            assert set(lost.again) | set(lost.given_up) == had
            waiting |= set(lost.again)
            ended |= set(lost.given_up)
            workers.discard(worker)
            leaving.discard(worker)
        begin()
        inside = {example for found in passes.values() for example in found}
        assert waiting | inside | ended == set(range(count))
        assert batcher.waiting == len(waiting)


def test_an_example_that_was_there_at_a_death_is_alone_and_is_given_up_at_the_third() -> None:
    batcher = Batcher(virtual_nodes=4, room=4)
    for example in range(3):
        batcher.put(example)
    batcher.join(0)
    assert [a.examples for a in batcher.next_passes()] == [(0, 1, 2)]
    assert batcher.leave(0).again == (0, 1, 2)
    for worker in (1, 2):
        batcher.join(worker)
        assert [a.examples for a in batcher.next_passes()] == [(0,)], "it has a worker to itself"
        lost = batcher.leave(worker)
    assert lost.given_up == (0,)
    batcher.join(3)
    finished: list[int] = []
    while passes := batcher.next_passes():
        (assigned,) = passes
        assert len(assigned.examples) == 1
        finished += batcher.finish(3, assigned.virtual_node)
    assert finished == [1, 2]


def test_a_worker_that_computes_gets_a_second_pass_only_when_it_would_be_full() -> None:
    batcher = Batcher(virtual_nodes=4, room=2)
    batcher.join(0)
    batcher.put(0)
    assert len(batcher.next_passes()) == 1
    batcher.put(1)
    assert batcher.next_passes() == []
    batcher.put(2)
    assert [a.examples for a in batcher.next_passes()] == [(1, 2)]
    batcher.put(3)
    batcher.put(4)
    assert batcher.next_passes() == []
