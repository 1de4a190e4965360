"""What a user may pass as data, and what is taken from it."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from holdtrue.errors import DataError

from ._order import IndexArray, epoch_order
from ._samplers import sampler_order

Collate = Callable[[list[Any]], Any]  # Any: examples and batches are the user's own
_SHARD_METHODS = ("shard", "state_dict", "load_state_dict", "__iter__")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderWorkers:
    """How a source is read ahead: torch's DataLoader workers. Nothing here changes a bit."""

    count: int = 0
    """DataLoader workers; 0 reads in line."""
    prefetch_factor: int | None = None
    """Fetches that each reads ahead; None is torch's default."""
    persistent: bool = False
    """Whether they outlive an epoch."""
    pin_memory: bool = False
    """Whether batches for a CUDA device pass through pinned memory."""
    init_fn: Callable[[int], None] | None = None
    """Called in each with its number."""
    multiprocessing_context: Any = None  # Any: a name or a context object, as torch takes it
    """How they are started; None is torch's default."""
    timeout_s: float = 0.0
    """Longest wait for one fetch, in seconds; 0 is no limit of its own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MapSource:
    """A dataset that is read by index."""

    dataset: Any  # Any: whatever has __getitem__ and __len__
    """The dataset."""
    examples: int
    """Its length, at least 1."""
    collate_fn: Collate = default_collate
    """Makes a batch of a list of examples."""
    shuffle: bool = True
    """Whether an epoch's order is a permutation drawn from the plan's seed."""
    sampler: Iterable[Any] | None = None
    """A user's sampler; it decides the order in place of `shuffle`."""
    workers: LoaderWorkers = field(default_factory=LoaderWorkers)
    """How the source is read ahead."""
    notes: tuple[str, ...] = ()
    """Sentences that the run prints once."""
    cycle: int | None = None
    """Length of the dataset where `examples` is more: it is gone through again and again, for `holdtrue profile`."""

    def order(self, *, seed: int, epoch: int) -> IndexArray:
        """Dataset indices in the order in which `epoch` reads them; see `epoch_order` and `sampler_order`."""
        if self.sampler is not None:
            return sampler_order(self.sampler, examples=self.examples, seed=seed, epoch=epoch)
        order = epoch_order(self.examples, seed=seed, epoch=epoch, shuffle=self.shuffle)
        return order if self.cycle is None else order % self.cycle

    def unshuffled(self) -> "MapSource":
        """The same source in dataset order, for evaluation and prediction; a sampler stays in force."""
        return dataclasses.replace(self, shuffle=False)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IterableSource:
    """An iterable that can be read by virtual node."""

    source: Any  # Any: whatever has shard, state_dict, load_state_dict and __iter__
    """The iterable; `source.shard(v, V)` is the part of virtual node v, of the same kind."""
    collate_fn: Collate = default_collate
    """Makes a batch of a list of examples."""
    notes: tuple[str, ...] = ()
    """Sentences that the run prints once."""


Source = MapSource | IterableSource


def open_source(
    source: Any,  # Any: this function is where the type is found out
    *,
    collate_fn: Collate | None = None,
    num_workers: int | None = None,
    shuffle: bool | None = None,
) -> Source:
    """What `source` is, with everything that reading it needs.

    Args:
        source: A map-style dataset (lists too), a DataLoader, or an iterable with `shard(v, V)`,
            `state_dict` and `load_state_dict`.
        collate_fn: Makes a batch of examples; None takes the DataLoader's, or torch's default.
        num_workers: DataLoader workers; None takes the DataLoader's, or 0.
        shuffle: None takes the DataLoader's, or true.

    Raises:
        DataError: the source can not be divided; the sentence says why and what to pass instead.

    >>> open_source(["a", "b", "c"]).examples
    3
    """
    if num_workers is not None and num_workers < 0:
        raise DataError(f"num_workers is {num_workers}; it is 0 or more. Pass 0 to read in line.")
    if isinstance(source, DataLoader):
        return _open_dataloader(source, collate_fn=collate_fn, num_workers=num_workers, shuffle=shuffle)
    if _is_map_style(source):
        return MapSource(
            dataset=source,
            examples=_checked_length(source),
            collate_fn=collate_fn or default_collate,
            shuffle=shuffle is not False,
            workers=LoaderWorkers(count=num_workers or 0),
        )
    notes = ("an iterable source is read in line: num_workers is not used",) if num_workers else ()
    return _open_iterable(source, collate_fn=collate_fn or default_collate, notes=notes)


def _is_map_style(source: object) -> bool:
    if isinstance(source, IterableDataset | Mapping | str | bytes):
        return False  # IterableDataset inherits __getitem__; the keys of a mapping are no positions
    return hasattr(source, "__getitem__") and hasattr(source, "__len__")


def _checked_length(dataset: Any) -> int:  # Any: a map-style dataset
    examples = len(dataset)
    if examples < 1:
        raise DataError(
            f"the dataset {type(dataset).__name__} is empty; a run needs at least one example. "
            f"Check the path or the filter that it reads from."
        )
    return examples


def _open_iterable(
    source: Any,  # Any: as in open_source
    *,
    collate_fn: Collate,
    notes: tuple[str, ...],
) -> IterableSource:
    missing = [name for name in _SHARD_METHODS if not callable(getattr(source, name, None))]
    if not missing:
        return IterableSource(source=source, collate_fn=collate_fn, notes=notes)
    name = type(source).__name__
    if "__iter__" in missing or isinstance(source, Mapping | str | bytes):
        raise DataError(
            f"the data source is of type {name}, which is no dataset; a source has __getitem__ and __len__ "
            "over positions 0 to len - 1, or is a DataLoader, or an iterable with shard, state_dict and "
            "load_state_dict. Pass one of these, such as a list of examples."
        )
    raise DataError(
        f"the iterable {name} has no {' and no '.join(missing)}; an iterable source is read by virtual node "
        "and continues in mid-epoch, so it needs shard(v, V), state_dict() and load_state_dict(state). Add "
        "them, or pass a dataset with __getitem__ and __len__ (list(source) is one if it fits in memory)."
    )


def _open_dataloader(
    loader: DataLoader[Any], *, collate_fn: Collate | None, num_workers: int | None, shuffle: bool | None
) -> Source:
    collate = collate_fn or loader.collate_fn
    if isinstance(loader.dataset, IterableDataset) or not _is_map_style(loader.dataset):
        note = "the DataLoader's dataset is an iterable: it is read in line, in batches of the plan's sizes"
        return _open_iterable(loader.dataset, collate_fn=collate, notes=(note,))
    sampler, batch_size = _sampler_of(loader)
    _refuse_distributed(sampler)
    examples = _checked_length(loader.dataset)
    is_random = type(sampler) is RandomSampler and not sampler.replacement and len(sampler) == examples
    is_plain = is_random or type(sampler) is SequentialSampler
    if not is_plain and shuffle is not None:
        raise DataError(
            f"shuffle={shuffle} together with the DataLoader's sampler {type(sampler).__name__}; one of them "
            "decides the order. Leave shuffle out to keep the sampler, or pass the dataset."
        )
    return MapSource(
        dataset=loader.dataset,
        examples=examples,
        collate_fn=collate,
        shuffle=is_random if shuffle is None else shuffle,
        sampler=None if is_plain else sampler,
        workers=_workers_of(loader, num_workers),
        notes=(_takeover_note(batch_size),),
    )


def _takeover_note(batch_size: int) -> str:
    return (
        f"the DataLoader's batch size of {batch_size} is replaced by the plan's global batch size, and "
        "its drop_last by the run's own; its dataset, collate_fn, sampler and worker settings are kept"
    )


def _sampler_of(loader: DataLoader[Any]) -> tuple[Iterable[Any], int]:
    """The sampler of single examples inside the DataLoader, and the batch size that it asked for."""
    batches = loader.batch_sampler
    if batches is None:
        raise DataError(
            "the DataLoader has batch_size=None: its dataset makes batches of its own; the plan divides "
            "single examples over virtual nodes. Pass a DataLoader with a batch_size, or a dataset of "
            "single examples."
        )
    _refuse_distributed(batches)
    if type(batches) is not BatchSampler:
        raise DataError(
            f"the DataLoader's batch_sampler {type(batches).__name__} makes batches of its own sizes; the "
            "plan decides how many examples a batch has. Pass a DataLoader with sampler=, or the dataset."
        )
    return batches.sampler, batches.batch_size


def _refuse_distributed(sampler: object) -> None:
    if isinstance(sampler, DistributedSampler):
        raise DataError(
            f"the DataLoader's sampler is a {type(sampler).__name__} for {sampler.num_replicas} replicas, "
            "which already divides the data; holdtrue divides every global batch over the virtual nodes. "
            "Pass the dataset, or a DataLoader without that sampler."
        )


def _workers_of(loader: DataLoader[Any], num_workers: int | None) -> LoaderWorkers:
    count = loader.num_workers if num_workers is None else num_workers
    return LoaderWorkers(
        count=count,
        prefetch_factor=loader.prefetch_factor if count else None,
        persistent=loader.persistent_workers and count > 0,
        pin_memory=loader.pin_memory,
        init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context if count else None,
        timeout_s=loader.timeout if count else 0.0,
    )
