"""What two predictions to disk have in common if one may go on where the other was cut off.

    given by the caller     texts by name, such as digests of files                    compared as they are
    seen here               "data": a digest of tensors, or of a few examples          compared on devices of one kind

Data that a script computes have other last bits on another kind of device, as weights have; files have not.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from holdtrue.data import Fetch, IndexArray, Loader, MapSource
from holdtrue.engine import hash_entry
from holdtrue.errors import CallMismatchError, UsageError

from ._passes import inference

if TYPE_CHECKING:
    from ._core import Core

SEEN = 8
"""Examples of a data set without plain tensors that are looked at: the first, the last, and some in between."""
BLOCK_BYTES = 1 << 24
"""So much of a tensor is hashed at once."""
OWN = ("examples", "pass_size", "passes_in_shard", "seed", "call", "weights", "numerics", "pad_value")
"""Names that the run itself fills in."""
_ON = " as seen on "
_SHOWN = {"code": "code of the model", "weights": "weights", "data": "data"}
"""Names whose values are digests, as messages have them."""

Identity = dict[str, str | int]
"""Texts and numbers by name."""


def named_texts(identity: Mapping[str, str] | None, out: str | None) -> dict[str, str]:
    """What a caller names of its prediction.

    Args:
        identity: See `Run.predict`, as `out`.

    Raises:
        UsageError: it is not texts by name, has a name of the run's own, or there is no folder that it could be of.

    >>> named_texts({"code": "5e1f"}, "predictions")
    {'code': '5e1f'}
    """
    if identity is None:
        return {}
    if out is None:
        raise UsageError(
            "identity is given without out; it says which folder may be continued. Give out too, or leave it out."
        )
    wrong = [
        name for name, value in identity.items() if not (isinstance(name, str) and isinstance(value, str))
    ]
    if wrong:
        raise UsageError(
            f"identity has {wrong[0]!r}: {identity[wrong[0]]!r}; it is texts by name. Give the text of it, or a digest."
        )
    if taken := [name for name in identity if name in OWN]:
        raise UsageError(
            f"identity has the name {taken[0]!r}, which the run fills in itself, as {', '.join(OWN)}. Choose another name."
        )
    return dict(identity)


def are_alike(name: str, one: str | int | None, other: str | int | None) -> bool:
    """Whether two values of a name may be of one prediction. Pure.

    Data that were not seen, or were seen on devices of two kinds, say nothing.

    >>> [are_alike("data", "5e1f as seen on A", f"77aa as seen on {kind}") for kind in "AB"]
    [False, True]
    >>> are_alike("data", "5e1f as seen on A", ""), are_alike("data", "5e1f", "77aa"), are_alike("seed", 0, 1)
    (True, False, False)
    """
    if one == other:
        return True
    if name != "data" or not isinstance(one, str) or not isinstance(other, str):
        return False
    (seen, _, kind), (their, _, their_kind) = one.partition(_ON), other.partition(_ON)
    return "" in (one, other) or seen == their or ("" not in (kind, their_kind) and kind != their_kind)


def say_differences(there: Identity, asked: Identity) -> str:
    """In what two predictions differ, in words; empty if one may go on where the other was cut off. Pure.

    >>> say_differences({"data": "5e", "seed": 0, "pass_size": 32}, {"data": "77", "seed": 0, "pass_size": 7})
    'data and pass_size (32 there, 7 asked for)'
    """
    words = [
        _SHOWN.get(name, f"{name} ({there.get(name, 'none')} there, {asked.get(name, 'none')} asked for)")
        for name in dict.fromkeys((*asked, *there))
        if not are_alike(name, there.get(name), asked.get(name))
    ]
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def check_identities(identities: Sequence[Identity], where: str) -> None:
    """Refuse to predict together what is not one prediction. Pure.

    Args:
        identities: Of each worker, by rank.
        where: The call.

    Raises:
        CallMismatchError: they differ.

    >>> check_identities([{"examples": 320}, {"examples": 300}], "predict (call 0)")
    Traceback (most recent call last):
    ...
    holdtrue.errors.CallMismatchError: worker 0 and worker 1 differ in examples (320 and 300) in predict (call 0); workers \
predict one data set with one model and the same options. Give all of them the same files.
    """
    for rank, other in enumerate(identities):
        for name in dict.fromkeys((*identities[0], *other)):
            value, their = identities[0].get(name), other.get(name)
            if not are_alike(name, value, their):
                shown = " and ".join(str(v).partition(_ON)[0] for v in (value, their))
                raise CallMismatchError(
                    f"worker 0 and worker {rank} differ in {name} ({shown}) in {where}; workers predict "
                    f"one data set with one model and the same options. Give all of them the same files."
                )


# ---- what is seen of the data ----


def look_at_data(core: Core, source: MapSource, order: IndexArray) -> str:
    """What can be told of a data set: a digest, and the kind of device on which it was seen; empty if two looks differ.

    Args:
        core: The run.
        source: The data.
        order: Positions to indices of the data set, where a sampler decides it.

    Returns:
        32 hex digits of all tensors of a plain `TensorDataset`, else of `SEEN` examples spread over the data: of their
        tensors, arrays, numbers and texts. At level portable it has no kind.

    Guarantee:
        Bits of the run do not depend on it: the run's random streams are put back, and each look sets them from the
        seed and the position. Where the data set has loading processes, it is read in one of its own.
    """
    digest = hashlib.sha256()
    if source.sampler is not None:
        digest.update(np.ascontiguousarray(order).data)
    if (columns := _plain_columns(source)) is not None:
        for column in columns:
            for part in _blocks(column):
                digest.update(hash_entry(part))
    else:
        first, second = _look_twice(core, source, order)
        if first != second:
            return ""  # drawn anew each time: no digest would be that of these data
        digest.update("|".join(first).encode())
    kind = "" if core.plan.numerics == "portable" else _ON + core.unlike.own
    return digest.hexdigest()[:32] + kind


def spread(examples: int) -> list[int]:
    """Positions of the examples that are looked at. Pure.

    >>> spread(3), spread(100)
    ([0, 1, 2], [0, 14, 28, 42, 56, 70, 84, 99])
    """
    seen = min(SEEN, examples)
    return [i * (examples - 1) // max(1, seen - 1) for i in range(seen)]


def _plain_columns(source: MapSource) -> tuple[torch.Tensor, ...] | None:
    """The tensors that are the data set, if it is nothing else."""
    if type(source.dataset) is not TensorDataset:
        return None
    columns = source.dataset.tensors
    is_plain = all(c.layout == torch.strided and not (c.is_quantized or c.is_meta) for c in columns)
    return columns if is_plain else None


def _blocks(column: torch.Tensor) -> Iterator[torch.Tensor]:
    rows = max(1, BLOCK_BYTES // max(1, column[:1].numel() * column.element_size()))
    yield from column.split(rows)


def _look_twice(core: Core, source: MapSource, order: IndexArray) -> tuple[list[str], list[str]]:
    """Digests of some examples, each read twice."""
    positions = spread(len(order))
    fetches = [
        Fetch(epoch=-1, step_in_epoch=0, virtual_node=0, first=p, indices=(int(order[p]),))
        for _ in range(2)
        for p in positions
    ]
    # Where it is read by loading processes, none of its files may be opened in this one.
    workers = dataclasses.replace(
        source.workers, count=min(1, source.workers.count), persistent=False, pin_memory=False
    )
    loader = Loader(
        dataclasses.replace(source, collate_fn=digest_examples, workers=workers),
        seed=core.plan.seed,
        timeout_s=core.settings.timeout_s if workers.count else 0.0,
        keep_streams=False,
    )
    with inference(core):
        found = [text for _, text in loader.load(fetches)]
    return found[: len(positions)], found[len(positions) :]


def digest_examples(examples: list[Any]) -> str:  # Any: the user's own
    """A digest of examples, in place of the batch that would be made of them.

    >>> digest_examples([(torch.ones(2), "a")]) == digest_examples([(torch.ones(2), "b")])
    False
    """
    digest = hashlib.sha256()
    for part in _parts_of(examples):
        digest.update(part)
    return digest.hexdigest()


def _parts_of(value: Any) -> Iterator[bytes]:  # Any: as above
    """What is known of a value; of what is no tensor, array, number or text, its type alone."""
    yield f"{type(value).__name__}|".encode()
    if isinstance(value, Mapping):
        for key in value:
            yield f"{key!r}|".encode(errors="surrogatepass") if isinstance(key, str | int) else b"key|"
            yield from _parts_of(value[key])
    elif isinstance(value, list | tuple):
        yield f"{len(value)}|".encode()
        for entry in value:
            yield from _parts_of(entry)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _parts_of(getattr(value, field.name))
    elif isinstance(value, torch.Tensor):
        if value.layout == torch.strided and not (value.is_quantized or value.is_meta or value.is_nested):
            yield hash_entry(value)
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes):
        yield hash_entry(value)
    elif hasattr(value, "__array_interface__"):  # NumPy's arrays and numbers, and images
        array = np.asarray(value)
        if array.dtype.kind in "biufc" and array.dtype.itemsize <= (16 if array.dtype.kind == "c" else 8):
            yield hash_entry(array)
        elif array.dtype.kind in "US":
            yield array.tobytes()
