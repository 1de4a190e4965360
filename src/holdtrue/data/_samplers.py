"""Orders that a user's sampler draws: one list per epoch, the same on every worker."""

import operator
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import torch

from holdtrue.errors import DataError
from holdtrue.plan import stream_key

from ._order import IndexArray
from ._streams import restore_host_streams, save_host_streams, set_host_streams, torch_state_of

_MOST_PASSES_OVER_DATASET = 100


def sampler_order(sampler: Iterable[Any], *, examples: int, seed: int, epoch: int) -> IndexArray:
    """Indices that `sampler` gives for one epoch.

    The host's streams and the sampler's own `generator` are set from (seed, epoch) while it draws, and
    are afterwards as they were. `set_epoch(epoch)` is called where the sampler has it.

    Args:
        sampler: Gives dataset indices.
        examples: Examples in the dataset: a sampler that gives 100 times as many has no end.
        seed: The plan's seed.
        epoch: Epoch, from 0.

    Returns:
        int64 indices; the epoch has as many examples.

    Raises:
        DataError: the sampler gives something else than whole numbers, nothing, or no end of them.

    Guarantee:
        The same on every worker, if what the sampler draws depends on these streams and on
        `set_epoch` only, and not on how often it was asked before.
    """
    key = stream_key(seed, "sampler", epoch)
    generator = getattr(sampler, "generator", None)
    generator = generator if isinstance(generator, torch.Generator) else None
    generator_state = generator.get_state() if generator is not None else None
    saved = save_host_streams()
    try:
        set_host_streams(key)
        _seed_generator(generator, key)
        if callable(set_epoch := getattr(sampler, "set_epoch", None)):
            set_epoch(epoch)
        limit = _MOST_PASSES_OVER_DATASET * examples
        return _index_array(sampler, list(islice(iter(sampler), limit + 1)), limit=limit)
    finally:
        restore_host_streams(saved)
        if generator is not None and generator_state is not None:
            generator.set_state(generator_state)


def _seed_generator(generator: torch.Generator | None, key: int) -> None:
    if generator is None:
        return
    if generator.device.type == "cpu":
        generator.set_state(torch_state_of(key))
    else:
        generator.manual_seed(key)


def _index_array(sampler: Iterable[Any], drawn: list[Any], *, limit: int) -> IndexArray:
    name = type(sampler).__name__
    if len(drawn) > limit:
        raise DataError(
            f"the sampler {name} gave more than {limit} indices, {_MOST_PASSES_OVER_DATASET} times the "
            "dataset; the sampler of an epoch must come to an end. Give it an end, or pass the dataset and "
            "epochs=N."
        )
    if not drawn:
        raise DataError(
            f"the sampler {name} gave no index; an epoch needs at least one example. Check what it selects "
            "from."
        )
    try:
        return np.array([operator.index(i) for i in drawn], dtype=np.int64)
    except TypeError:
        stranger = next(i for i in drawn if not hasattr(i, "__index__"))
        raise DataError(
            f"the sampler {name} gave {stranger!r}; a sampler gives dataset indices, which are whole "
            "numbers. Pass a dataset that is indexed by 0 to len - 1."
        ) from None
