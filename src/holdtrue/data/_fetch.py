"""One fetch, the same in line and in a DataLoader worker: that is why `num_workers` does not change a bit."""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset, default_collate

from holdtrue.plan import stream_key

from ._fresh import Batch
from ._schedule import Fetch
from ._source import MapSource
from ._streams import set_host_streams


class FetchDataset(Dataset[Batch]):
    """The source as a dataset whose index is a `Fetch`; what DataLoader workers hold."""

    def __init__(self, source: MapSource, *, seed: int) -> None:
        self._dataset, self._collate_fn, self._seed = source.dataset, source.collate_fn, seed
        # Rows of plain tensors, stacked: one gather gives the same bits, and nothing can draw from a stream.
        is_plain = type(source.dataset) is TensorDataset and source.collate_fn is default_collate
        self._columns = source.dataset.tensors if is_plain else None
        # A user's sampler may count from the end, which index_select does not; it keeps no other memory format.
        self._selects = source.sampler is None and all(c.is_contiguous() for c in self._columns or ())

    @property
    def is_plain(self) -> bool:
        """Whether batches are gathered from plain tensors, which makes fresh ones and draws nothing."""
        return self._columns is not None

    @property
    def bytes_of_example(self) -> int:
        """Bytes of one row of plain tensors; 0 where they are not plain."""
        return sum(c.nbytes // max(1, len(c)) for c in self._columns or ())

    def __getitem__(self, fetch: Fetch) -> Batch:
        """The batch of `fetch`, with the host's streams left where the dataset took them.

        Returns:
            What collate_fn made of the examples; None for a fetch without any.

        Guarantee:
            Whatever the dataset and collate_fn draw from the host's streams depends on the seed,
            the epoch, the position and the virtual node only.
        """
        if not fetch.indices:
            return None
        if self._columns is not None:
            rows = torch.tensor(fetch.indices) if fetch.rows is None else torch.from_numpy(fetch.rows)
            if self._selects:
                return [
                    column.index_select(0, rows) for column in self._columns
                ]  # half the time of column[rows]
            return [column[rows] for column in self._columns]
        set_host_streams(stream_key(self._seed, "fetch", fetch.epoch, fetch.first, fetch.virtual_node))
        with plain_torch():
            return self._collate_fn(self._examples(list(fetch.indices)))

    def _examples(self, indices: list[int]) -> list[Any]:  # Any: examples are the user's own
        if many := getattr(self._dataset, "__getitems__", None):
            return many(indices)  # type: ignore[no-any-return]  # the protocol of torch's own DataLoader
        return [self._dataset[i] for i in indices]


def plain_torch() -> AbstractContextManager[object]:
    """Torch as a DataLoader worker has it: one thread, and no autocast that the caller may be in."""
    threads = torch.get_num_threads()
    casting = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    if threads == 1 and not casting:
        return nullcontext()  # the usual case, and entered once a pass
    stack = ExitStack()
    for kind in casting:
        stack.enter_context(torch.autocast(kind, enabled=False))
    torch.set_num_threads(1)
    stack.callback(torch.set_num_threads, threads)
    return stack


def describe_fetch(fetch: Fetch) -> str:
    """What was being read, for a note on an exception of the user's code."""
    unit = f"step {fetch.step_in_epoch} of epoch {fetch.epoch}" if fetch.epoch >= 0 else "an evaluation"
    shown = ", ".join(map(str, fetch.indices[:8])) + (", ..." if len(fetch.indices) > 8 else "")
    return f"holdtrue was reading for virtual node {fetch.virtual_node} in {unit}: dataset indices {shown}"
