"""Prediction to disk in rounds: between two of them workers come, leave and are counted, as at a step boundary.

    meet:   everyone says what it wrote, rank 0 what is not on disk yet     -> what is missing, the same on all
            where rank 0 looked at the disk, the others look whether they see the same folder
            a stop ends the call here; a planned view is entered here; after a death nobody has to do anything
    round:  the missing shards are dealt out, each worker writes its own until the round's time is over
    ...     until nothing is missing

What is done is known from the disk and from the words of the living. A worker that dies, or is asked away, leaves shards
that are missing still. Bits of a shard depend on its examples and the call: it does not matter who writes it, or twice.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, final

from torch.utils import _pytree as pytree

from holdtrue.data import Loader
from holdtrue.errors import CallMismatchError, DivergenceError, JoinRefusedError, UsageError
from holdtrue.units import format_ids

from ._agree import end_interrupted, say_first_difference
from ._boundary import enter_agreed
from ._checks import check_function
from ._elastic import gather_anew
from ._identity import Identity, check_identities, look_at_data, say_differences
from ._outputs import PASSES_IN_SHARD, Outputs, ShardFolder, is_marked, name_writer
from ._passes import as_rows, call_with, check_structure, open_in_order, run_passes, size_of

if TYPE_CHECKING:
    from ._core import Core

ROUND_S = 2.0
"""How long a worker takes up another shard in a round, in seconds: a change of the workers waits so long, and a fast worker
at most for one shard of a slow one."""

Runs = list[tuple[int, int]]
"""Ascending numbers, as first and last of each run of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What one worker says when all meet."""

    call: int
    generation: int
    planned: int
    """Newest planned view that it knows."""
    round_: int
    """Rounds that it has seen the end of; a joiner has seen none."""
    wants_stop: bool
    wrote: tuple[int, ...]
    """Shards that it has written since all met."""
    identity: Identity
    """What it predicts."""
    missing: Runs | None = None
    """Shards that are not on disk, where the worker has looked: rank 0 does, once in each generation."""
    mark: str = ""
    """Mark of the folder in which it looked."""
    there: int | None = None
    """Examples whose outputs were on disk when the call began, where the worker knows."""
    is_new: bool = False
    """Whether it has come to a prediction under way, and has met nobody in it yet."""

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, message: bytes) -> Word:
        """The word that `encode` wrote."""
        return cls(**json.loads(message))


def deal_shards(missing: Sequence[int], held: Sequence[Sequence[int]], rank: int) -> Sequence[int]:
    """The shards of one worker in a round, in the order in which it writes them. Pure.

    Args:
        missing: Shards that are not on disk, ascending.
        held: Virtual nodes of each worker, by rank: one that holds none stands by.
        rank: Of the worker.

    >>> [list(deal_shards([0, 1, 4, 5, 6], [(0, 2), (), (1, 3)], rank)) for rank in range(3)]
    [[0, 4, 6], [], [1, 5]]
    """
    at_work = [r for r, ids in enumerate(held) if ids]
    return missing[at_work.index(rank) :: len(at_work)] if rank in at_work else ()


def what_is_missing(known: Sequence[int], words: Sequence[Word]) -> list[int]:
    """Shards that are still to be written, once all have met. Pure.

    Args:
        known: What was missing when all met before.
        words: Everyone's, by rank. What rank 0 saw on the disk may be older than what the others have written.

    >>> word = Word(call=0, generation=1, planned=0, round_=1, wants_stop=False, wrote=(1,), identity={})
    >>> what_is_missing([0, 1, 2, 3], [word, replace(word, wrote=(2,))])
    [0, 3]
    >>> what_is_missing([], [replace(word, missing=[[1, 3], [7, 7]]), word])
    [2, 3, 7]
    """
    if words[0].missing is not None:
        known = [i for first, last in words[0].missing for i in range(first, last + 1)]
    wrote = {i for word in words for i in word.wrote}
    return [i for i in known if i not in wrote]


def runs_of(numbers: Sequence[int]) -> Runs:
    """Ascending numbers as runs.

    >>> runs_of([0, 1, 2, 5])
    [(0, 2), (5, 5)]
    """
    runs: Runs = []
    for i in numbers:
        if runs and i == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], i
        else:
            runs.append((i, i))
    return runs


@final
class Prediction:
    """One call of `run.predict(out=...)` on one worker.

    Args:
        core: The run.
        fn: See `Run.predict`, as `source`, `batch_size`, `pad_value` and `out`.
        number: The call's.
        identity: What the caller names of it.
    """

    def __init__(
        self,
        core: Core,
        fn: Callable[..., Any],
        source: Any,  # Any: an opened source
        batch_size: int | None,
        *,
        number: int,
        pad_value: float | None,
        out: str,
        identity: Mapping[str, str],
    ) -> None:
        check_function("run.predict", fn)
        self._core, self._fn, self._number, self._pad_value, self._out = core, fn, number, pad_value, out
        source = self._source = open_in_order(source)
        # Loading processes live as long as the call, and not for a round.
        workers = replace(source.workers, persistent=source.workers.count > 0)
        self._loader = Loader(
            replace(source, workers=workers),
            seed=core.plan.seed,
            device=core.device,
            timeout_s=core.settings.timeout_s if workers.count else 0.0,
            keep_streams=False,
        )
        self._order = source.order(seed=core.plan.seed, epoch=0)
        self._size = size_of(core, batch_size)
        self._span = self._size * PASSES_IN_SHARD
        self._examples = len(self._order)
        self._weights = ""
        self._given: dict[str, str] = {"data": ""} | dict(identity)
        """What is known of the data, and what the caller names."""
        self._there: int | None = None
        """Examples whose outputs were there when the call began, on any worker."""
        self._structure: pytree.TreeSpec | None = None
        """Of the outputs of every pass, once there was one."""
        self._wrote: list[int] = []
        self._missing: list[int] = []
        self._round = -1
        self._seen_in = -1
        """Generation in which rank 0 last looked at the disk."""
        self._agreed: tuple[int, int] | None = None

    def run(self, *, is_entering: bool) -> Outputs:
        """Write what is not on disk.

        Args:
            is_entering: Whether the others are in the middle of it, and have given this worker their state.

        Blocks:
            In each round until every worker has come to its end, at most the group's time-out.
        """
        core = self._core
        core.is_predicting = not core.is_looping
        try:
            if not self._given["data"]:
                self._given["data"] = look_at_data(core, self._source, self._order)
            self._weights = self._digest()[0] if is_entering else self._agree_on_weights()
            while self._meet():
                self._write_share()
            self._end()
        finally:
            core.is_predicting = False
            self._loader.close()
        outputs = Outputs(self._out)
        outputs.computed = self._examples - (self._there or 0)
        return outputs

    @property
    def _name(self) -> str:
        return f"predict (call {self._number})"

    # ---- between rounds ----

    def _digest(self) -> tuple[str, dict[str, str]]:
        return self._core.state.digest(self._core.calls.position.digested, what="weights")

    def _agree_on_weights(self) -> str:
        """Make sure that all predict one data set with one model, before anything is written; the model's digest.

        Raises:
            CallMismatchError: a worker has other data or options.
            DivergenceError: a worker has another model.
        """
        core = self._core
        digest, entries = self._digest()

        def gather(text: str, what: str) -> list[Any]:  # Any: JSON values
            gathered = gather_anew(
                lambda: core.group.gather_bytes(text.encode(), what=what), core.take_up_mapping
            )
            return [json.loads(part) for part in gathered]

        found = gather(
            json.dumps([core.unlike.own, digest, self._identity]),
            f"the digests of the weights before {self._name}",
        )
        check_identities([identity for _, _, identity in found], self._name)
        if len({own for _, own, _ in found}) == 1:
            return digest
        kinds = {kind for kind, _, _ in found}
        if core.unlike.is_mixed and len({(kind, own) for kind, own, _ in found}) == len(kinds):
            core.unlike.unify_start()  # random numbers of unlike devices differ in their last bits
            return self._digest()[0]
        maps = gather(json.dumps(dict(entries)), f"the weights before {self._name}")
        raise DivergenceError(say_first_difference(maps, f"before {self._name}", initial=True))

    def _meet(self) -> bool:
        """Meet the others, and do what a boundary asks for; whether there is something left to write."""
        core = self._core
        while True:
            core.place(f"round {self._round + 1} of {self._name}")
            words = [Word.decode(part) for part in gather_anew(self._say, core.take_up_mapping)]
            self._hear(self._of_this_prediction(words))
            if words[0].missing is not None:
                self._compare_folders(words[0].mark)
            core.is_entering = False
            self._tell()
            if not self._missing:
                return False
            if core.is_looping:  # in a step's body: the step's boundary does the rest
                core.take_up_mapping()
                return True
            if self._is_stopping:
                end_interrupted(core, self._describe_stop())
            if not enter_agreed(core, self._agreed, place=f"in {self._name}", call=self._number):
                return True

    def _say(self) -> list[bytes]:
        core, group = self._core, self._core.elastic
        missing, mark = None, ""
        if core.group.rank == 0 and self._seen_in != core.generation:
            folder = self._folder()
            found, mark = folder.begin(self._ranges)
            missing = runs_of(found)
            self._given["data"] = str(folder.identity["data"])
        word = Word(
            call=self._number,
            generation=core.generation,
            planned=0 if group is None else group.agent.newest_planned,
            round_=self._round,
            wants_stop=core.wishes.is_interrupted or core.must_stop,
            wrote=tuple(self._wrote),
            identity=self._identity,
            missing=missing,
            mark=mark,
            there=self._there,
            is_new=core.is_entering,
        )
        return core.group.gather_bytes(word.encode(), what=f"all workers to end a round of {self._name}")

    def _of_this_prediction(self, words: Sequence[Word]) -> list[Word]:
        """The words of those who predict the same; a newcomer that does not is a loss to the others.

        Raises:
            CallMismatchError: workers that were there predict something else.
            JoinRefusedError: this worker has come, and does.
        """
        settled = [word for word in words if not word.is_new] or words
        calls = {word.call for word in settled}
        if len(calls) > 1:
            raise CallMismatchError(
                f"workers are in different predictions, by rank in calls {format_ids(tuple(sorted(calls)))}; every worker "
                f"makes the same calls in the same order. Decide by values that are the same everywhere."
            )
        check_identities([word.identity for word in settled], self._name)
        if self._core.is_entering and (differences := say_differences(settled[0].identity, self._identity)):
            raise JoinRefusedError(
                f"this worker differs from the job that it came to in {differences}; workers predict one data set with one model "
                f"and the same options. Give it the same files. The job goes on without it."
            )
        return [w for w in words if not w.is_new or not say_differences(settled[0].identity, w.identity)]

    def _compare_folders(self, mark: str) -> None:
        """Make sure that all write into one folder, before those who have come write anything.

        Raises:
            UsageError: a worker that was there does not see what rank 0 wrote there.
            JoinRefusedError: this worker has come, and does not.
        """

        def gather() -> list[bytes]:
            lacking = "" if is_marked(self._out, self._identity, mark) else os.path.abspath(self._out)
            return core.group.gather_bytes(
                json.dumps([lacking, core.is_entering]).encode(),
                what=f"all workers to see the folder of {self._name}",
            )

        core = self._core
        for rank, text in enumerate(gather_anew(gather, core.take_up_mapping)):
            lacking, is_new = json.loads(text)
            if lacking and (not is_new or rank == core.group.rank):
                raise (JoinRefusedError if is_new else UsageError)(
                    f"worker {rank} does not see in {lacking} what worker 0 wrote for {self._name}; all workers write into "
                    f"one folder, and no other command begins there meanwhile. Name one that they share, by its absolute path."
                )

    def _hear(self, words: Sequence[Word]) -> None:
        # Of those who were here before: a joiner of another kind may see the data otherwise.
        leading = next((word for word in words if word.there is not None), words[0])
        self._given["data"] = str(leading.identity["data"])
        self._missing = what_is_missing(self._missing, words)
        self._there = self._done if leading.there is None else leading.there
        if words[0].missing is not None:
            self._seen_in = words[0].generation
        self._wrote.clear()
        self._round = max(word.round_ for word in words) + 1
        self._agreed = words[0].generation, min(word.planned for word in words)
        self._is_stopping = any(word.wants_stop for word in words)

    def _tell(self) -> None:
        """Tell those who look how far the prediction is."""
        self._core.account.tell_prediction(done=self._done, total=self._examples)

    @property
    def _done(self) -> int:
        """Examples whose outputs are on disk."""
        return self._examples - sum(stop - start for start, stop in map(self._range, self._missing))

    def _describe_stop(self) -> str:
        return (
            f"interrupted in {self._name}: outputs of {self._done} of {self._examples} examples are in {self._out}, and the "
            f"same call goes on from there."
        )

    # ---- a round ----

    def _write_share(self) -> None:
        """Write shards of this worker until the round is over: at least one, if it has any."""
        core = self._core
        mine = deal_shards(self._missing, core.mapping.held, core.group.rank)
        if not mine:
            return
        folder, until_s = self._folder(), time.monotonic() + ROUND_S
        if self._structure is None:
            self._structure = self._structure_in(folder)
        numbers = (number for shard in mine for number in self._passes_in(shard))
        passes: list[Any] = []
        with closing(run_passes(core, self._loader, self._order, self._size, numbers, self._number)) as runs:
            for chunk, batch in runs:
                outputs = call_with(self._fn, batch, chunk)
                self._structure = check_structure(outputs, self._structure)
                passes.append(pytree.tree_map(lambda leaf, c=chunk: as_rows(leaf, c), outputs))
                shard = chunk.start // self._span
                if chunk.stop < self._range(shard)[1]:
                    continue
                folder.write(*self._range(shard), passes, self._pad_value)
                self._wrote.append(shard)
                passes = []
                if time.monotonic() >= until_s or self._is_called():
                    break

    def _is_called(self) -> bool:
        """Whether the others should not wait for this worker's whole round."""
        core, group = self._core, self._core.elastic
        if group is not None and group.agent.newest_forced() > group.generation:
            return True
        if core.is_looping:
            return False
        is_stopping = core.wishes.is_interrupted or core.must_stop
        return is_stopping or (group is not None and group.agent.newest_planned > group.generation)

    def _end(self) -> None:
        """Complete the manifest: by the main worker, and by another if it dies in it."""
        core = self._core

        def gather() -> list[bytes]:
            if core.group.rank == 0:
                self._folder().end(self._ranges)
            return core.group.gather_bytes(b"", what=f"the end of {self._name}")

        gather_anew(gather, core.take_up_mapping)

    # ---- shards ----

    def _structure_in(self, folder: ShardFolder) -> pytree.TreeSpec | None:
        """Structure of the first shard that is there: of an earlier call, or of a worker of this one."""
        present = next((i for i, missing in enumerate(self._missing) if i != missing), len(self._missing))
        notes = folder.notes(*self._range(present)) if present * self._span < self._examples else None
        return None if notes is None else pytree.treespec_loads(notes["tree"])

    @property
    def _ranges(self) -> list[tuple[int, int]]:
        """Examples of each shard, half open."""
        return [self._range(i) for i in range(-(-self._examples // self._span))]

    def _range(self, shard: int) -> tuple[int, int]:
        """Examples of a shard, half open."""
        return shard * self._span, min((shard + 1) * self._span, self._examples)

    def _passes_in(self, shard: int) -> Iterator[int]:
        start, stop = self._range(shard)
        yield from range(start // self._size, -(-stop // self._size))

    @property
    def _identity(self) -> Identity:
        return {
            "examples": self._examples,
            "pass_size": self._size,
            "passes_in_shard": PASSES_IN_SHARD,
            "seed": self._core.plan.seed,
            "call": self._number,
            "weights": self._weights,
            "numerics": self._core.plan.numerics,
            "pad_value": str(self._pad_value),  # as text: nan is not equal to itself
            **self._given,
        }

    def _folder(self) -> ShardFolder:
        writer = name_writer(self._core.number, self._core.generation)
        return ShardFolder(self._out, self._identity, writer=writer)
