"""The order of examples in an epoch."""

import numpy as np
import numpy.typing as npt

from holdtrue.errors import DataError
from holdtrue.plan import stream_key

IndexArray = npt.NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def epoch_order(examples: int, *, seed: int, epoch: int, shuffle: bool) -> IndexArray:
    """Dataset indices in the order in which one epoch reads them.

    Args:
        examples: Examples in the dataset, 0 or more.
        seed: The plan's seed.
        epoch: Epoch, from 0.
        shuffle: False gives 0, 1, 2, ...

    Returns:
        int64 permutation of `range(examples)`.

    Raises:
        DataError: `examples` is negative.

    Guarantee:
        Pure, with one answer on every machine and version of NumPy: indices are sorted by a key in
        64-bit integer arithmetic, and no library's shuffle is asked.   # guarantee G3

    Source:
        Keys: output `index` of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) started at
        `stream_key(seed, "order", epoch)`. SplitMix64 is a bijection, so no two keys are equal.

    >>> epoch_order(5, seed=0, epoch=0, shuffle=False).tolist()
    [0, 1, 2, 3, 4]
    >>> sorted(epoch_order(5, seed=0, epoch=3, shuffle=True).tolist())
    [0, 1, 2, 3, 4]
    """
    if examples < 0:
        raise DataError(f"examples is {examples}; a dataset holds 0 or more. Pass the length of the dataset.")
    indices = np.arange(examples, dtype=np.int64)
    if not shuffle:
        return indices
    z = np.arange(1, examples + 1, dtype=np.uint64)
    z *= _GOLDEN
    z += np.uint64(stream_key(seed, "order", epoch))
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return np.argsort(z ^ (z >> np.uint64(31)), kind="stable").astype(np.int64, copy=False)
