"""What it means that two runs hold true to each other, said once for every test that asks it."""

from itertools import zip_longest

from holdtrue.data import epoch_order
from holdtrue.mapping import parse_mapping
from holdtrue.plan import divide_batch
from zoo import SEED, Case, StepNote, Trace

ROUNDS = {"gan": 2}


def first_difference(trace: Trace, base: Trace) -> str | None:
    """Where loss or digest of two runs part first, as a sentence; None if they never do."""
    for step, (here, there) in enumerate(zip_longest(trace.steps, base.steps)):
        if here is None or there is None:
            return f"step {step}: one run has {len(trace.steps)} steps, the other {len(base.steps)}"
        for what, a, b in (("loss", here.loss, there.loss), ("digest", here.digest, there.digest)):
            if a != b:
                return f"step {step}: {what} {a} here, {b} on one worker"
    if trace.facts != base.facts:
        return f"after all steps: {trace.facts} here, {base.facts} on one worker"
    return None


def nodes_with_examples(case: Case, step: int) -> list[int]:
    """Virtual nodes that have examples in a step: in an epoch's short last batch some have none."""
    per_epoch = -(-case.examples // case.batch)
    left = case.examples - (step % per_epoch) * case.batch
    return [v for v, (a, b) in enumerate(divide_batch(min(case.batch, left), case.virtual_nodes)) if b > a]


def passes_of_plan(case: Case, step: int, *, shuffle: bool = True) -> list[tuple[int, ...]]:
    """Examples of each virtual node that has some, by the plan's arithmetic alone."""
    per_epoch = -(-case.examples // case.batch)
    epoch, at = divmod(step, per_epoch)
    start = at * case.batch
    order = epoch_order(case.examples, seed=SEED, epoch=epoch, shuffle=shuffle).tolist()
    batch = order[start : start + case.batch]
    return [tuple(batch[a:b]) for a, b in divide_batch(len(batch), case.virtual_nodes) if b > a]


def check_base(case: Case, base: Trace) -> None:
    """One worker runs every virtual node of every step, each over the examples that the plan gives it."""
    rounds = ROUNDS.get(case.model, 1)
    assert len(base.steps) >= 4
    for index, note in enumerate(base.steps):
        expected = passes_of_plan(case, index, shuffle=case.model != "tokens")
        assert list(note.passes) == expected * rounds, f"step {index}"
        assert note.forwards == len(expected) * rounds, f"step {index}"


def check_same(case: Case, traces: list[Trace], base: Trace, mapping: str) -> None:
    """Every worker has the loss and digest of one worker after every step, and ran its own virtual nodes only."""
    rounds = ROUNDS.get(case.model, 1)
    held = parse_mapping(mapping, case.virtual_nodes).held
    assert len(traces) == len(held)
    for rank, trace in enumerate(traces):
        parted = first_difference(trace, base)
        assert parted is None, f"{case} on {mapping}, worker {rank}: {parted}"
    for index, whole in enumerate(base.steps):
        nodes = nodes_with_examples(case, index)
        by_node = dict(zip(nodes, whole.passes, strict=False))
        for rank, note in enumerate(notes_of(traces, index)):
            own = [by_node[v] for v in held[rank] if v in by_node]
            assert list(note.passes) == own * rounds, f"{case} on {mapping}, worker {rank}, step {index}"
            assert note.forwards == len(own) * rounds, f"{case} on {mapping}, worker {rank}, step {index}"
        assert sum(note.forwards for note in notes_of(traces, index)) == len(nodes) * rounds


def notes_of(traces: list[Trace], step: int) -> list[StepNote]:
    """Each worker's note of one step."""
    return [trace.steps[step] for trace in traces]
