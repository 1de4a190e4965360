"""Batches for a row of fetches, read in line or ahead by DataLoader workers."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator

import torch
from torch.utils.data import DataLoader

from ._fetch import FetchDataset, describe_fetch
from ._fresh import Batch, batch_to_device
from ._schedule import Fetch
from ._source import MapSource
from ._streams import restore_host_streams, save_host_streams

BURST_BYTES = 1 << 20
"""So much of a step's batches may be gathered at once, in bytes."""


class Loader:
    """Reads a source by fetches. Bits depend on the fetch alone: not on workers, order or repetition.

    Args:
        source: What to read.
        seed: The plan's seed.
        device: Where batches are put.
        keep_streams: Whether reading in line leaves the caller's random streams as they were
            (50 us a fetch); false where the caller saves and restores them around the step.
        timeout_s: Longest wait for one fetch from DataLoader workers, in seconds, where the user's
            own DataLoader sets none; 0 is no limit.

    >>> from holdtrue.data import open_source
    >>> loader = Loader(open_source([1.0, 2.0, 3.0]), seed=0)
    >>> loader.fetch_now(Fetch(epoch=0, step_in_epoch=0, virtual_node=0, first=0, indices=(2, 0)))
    tensor([3., 1.], dtype=torch.float64)
    """

    def __init__(
        self,
        source: MapSource,
        *,
        seed: int,
        device: torch.device = torch.device("cpu"),  # noqa: B008  # an immutable value
        keep_streams: bool = True,
        timeout_s: float = 0.0,
    ) -> None:
        self._dataset = FetchDataset(source, seed=seed)
        self._workers = source.workers
        self._device = device
        self._keep_streams = keep_streams
        self._timeout_s = source.workers.timeout_s or timeout_s
        self._submitted = _Submitted()
        self._ahead: DataLoader[Batch] | None = None

    def load(self, fetches: Iterable[Fetch]) -> Generator[tuple[Fetch, Batch], None, None]:
        """Each fetch with its batch, in the order given; the batch of a fetch without examples is None.

        Args:
            fetches: Read lazily. Workers read ahead of what was taken, so pass the rest of an epoch at
                once; close the iterator to drop what was read ahead.

        Returns:
            Pairs of a fetch and its batch: fresh tensors on the loader's device.

        Raises:
            Exception: what the dataset or collate_fn raised, with a note of virtual node, step, indices.

        Blocks:
            With workers: until a fetch is read, at most `timeout_s` if that is set.
        """
        return self._load_ahead(fetches) if self._workers.count else self._load_in_line(fetches)

    def fetch_now(self, fetch: Fetch) -> Batch:
        """The batch of one fetch, read in line: the same bits as from `load`, however often."""
        saved = save_host_streams() if self._keep_streams else None
        try:
            batch = self._dataset[fetch]
            if self._dataset.is_plain and self._device.type == "cpu":
                return batch  # a gather makes fresh tensors
            return batch_to_device(batch, self._device)
        except Exception as error:
            error.add_note(describe_fetch(fetch))
            raise
        finally:
            if saved is not None:
                restore_host_streams(saved)

    def close(self) -> None:
        """Let persistent workers go."""
        self._ahead = None

    def _load_in_line(self, fetches: Iterable[Fetch]) -> Generator[tuple[Fetch, Batch], None, None]:
        if not (self._dataset.is_plain and self._device.type == "cpu"):
            for fetch in fetches:
                yield fetch, self.fetch_now(fetch)
            return
        # Gathering the batches of a step one after the other takes half as long as doing it between passes.
        limit = max(1, BURST_BYTES // max(1, self._dataset.bytes_of_example))
        burst: list[tuple[Fetch, Batch]] = []
        examples = 0
        for fetch in fetches:
            is_other = bool(burst) and burst[-1][0].step_in_epoch != fetch.step_in_epoch
            if burst and (is_other or examples + len(fetch.indices) > limit):
                yield from _emptying(burst)
                examples = 0
            burst.append((fetch, self.fetch_now(fetch)))
            examples += len(fetch.indices)
        yield from _emptying(burst)

    def _load_ahead(self, fetches: Iterable[Fetch]) -> Generator[tuple[Fetch, Batch], None, None]:
        waiting: deque[Fetch] = deque()

        def submit() -> Iterator[Fetch]:
            for fetch in fetches:
                waiting.append(fetch)
                yield fetch

        self._submitted.fetches = submit()
        if self._ahead is None:  # `or` would ask it for its length
            self._ahead = self._start_ahead()
        batches = iter(self._ahead)
        try:
            while waiting:
                try:
                    batch = next(batches)
                except Exception as error:
                    error.add_note(describe_fetch(waiting[0]))
                    # The frames of torch's reraise() form a cycle with the error and would keep the iterator
                    # until a garbage collection, which ends workers in the wrong order: 5 s of waiting for
                    # each. The worker's own traceback is in the message.
                    error.__traceback__ = None
                    raise
                yield waiting.popleft(), batch_to_device(batch, self._device)
                del batch  # else it would live beside the next one
        finally:
            del batches  # ends workers that are not persistent, before an exception goes on its way

    def _start_ahead(self) -> "DataLoader[Batch]":
        workers = self._workers
        return DataLoader(
            self._dataset,
            batch_size=None,  # one index, a fetch, is one batch
            sampler=self._submitted,
            collate_fn=_keep,
            num_workers=workers.count,
            prefetch_factor=workers.prefetch_factor,
            persistent_workers=workers.persistent,
            pin_memory=workers.pin_memory and self._device.type == "cuda",
            worker_init_fn=workers.init_fn,
            multiprocessing_context=workers.multiprocessing_context,
            timeout=self._timeout_s,
            generator=torch.Generator(),  # else it would draw its base seed from the user's main stream
        )


def _emptying(burst: list[tuple[Fetch, Batch]]) -> Iterator[tuple[Fetch, Batch]]:
    """The pairs in order; each is let go when it is given, so that a batch lives no longer than its pass."""
    burst.reverse()
    while burst:
        yield burst.pop()


class _Submitted(Iterable[Fetch]):
    """The sampler of the DataLoader: the fetches of the present `load`."""

    fetches: Iterator[Fetch] = iter(())

    def __iter__(self) -> Iterator[Fetch]:
        return self.fetches


def _keep(batch: Batch) -> Batch:
    return batch
