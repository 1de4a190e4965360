"""Inference on virtual nodes: passes of fixed size, every example exactly once, combined in one order."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from holdtrue.data import Chunk
from holdtrue.engine import checked_weight, describe_value, one_number
from holdtrue.errors import UsageError

from ._checks import check_function
from ._elastic import gather_anew
from ._passes import call_with, passes_of_nodes

if TYPE_CHECKING:
    from ._core import Core


def evaluate_chunks(
    core: Core, fn: Callable[..., Mapping[str, Any]], source: Any, batch_size: int | None, number: int
) -> dict[str, float]:
    """See `Run.evaluate`."""
    check_function("run.evaluate", fn)
    own: dict[int, dict[str, tuple[str, str]]] = {}

    def gather() -> list[bytes]:
        for chunk, batch in passes_of_nodes(core, source, batch_size, number, own):
            returned = call_with(fn, batch, chunk)
            if not isinstance(returned, Mapping):
                raise UsageError(
                    f"the function given to evaluate returned a {type(returned).__name__}; it returns scalars by name. "
                    f"Return a dict such as {{'accuracy': value}}."
                )
            own[chunk.index] = {n: _scalar(n, value, chunk) for n, value in returned.items()}
        payload = json.dumps({str(i): values for i, values in own.items()}).encode()
        return core.group.gather_bytes(payload, what=f"the results of evaluate (call {number})")

    # After a loss the chunks of who died are evaluated by the others.
    sent = gather_anew(gather, core.take_up_mapping)
    merged: dict[int, dict[str, tuple[str, str]]] = {}
    for part in sent:
        merged |= {int(i): values for i, values in json.loads(part).items()}
    _check_same_names(merged)
    names = merged[0] if merged else {}
    return {name: _mean([merged[i][name] for i in sorted(merged)]) for name in names}


def _check_same_names(merged: Mapping[int, Mapping[str, object]]) -> None:
    """Refuse a mean over a part of the batches that looks like one over all.

    Raises:
        UsageError: a pass lacks a name that another one has.
    """
    for name in dict.fromkeys(name for i in sorted(merged) for name in merged[i]):
        lacking = [i for i in sorted(merged) if name not in merged[i]]
        if lacking:
            raise UsageError(
                f"the function given to evaluate returned {name!r} for {len(merged) - len(lacking)} of {len(merged)} batches and "
                f"not for batch {lacking[0]}; a mean is over all of them. Return the same names for each batch, "
                f"and weight 0 where one has no value: {{{name!r}: (0.0, 0)}}."
            )


def _scalar(
    name: str, value: Any, chunk: Chunk
) -> tuple[str, str]:  # Any: what the script's function returned
    weight: Any = chunk.stop - chunk.start
    if isinstance(value, tuple) and len(value) == 2:
        value, weight = value
    number = one_number(value)
    if number is None:
        raise UsageError(
            f"the function given to evaluate returned {describe_value(value)} for {name!r}; it returns one number, the mean "
            f"over the batch, or (number, weight). Reduce it first."
        )
    weight = checked_weight(
        weight,
        what=f"the weight of {name!r} that the function given to evaluate returned for batch {chunk.index}",
        way_out="Return the number of examples or tokens that the value is the mean of.",
    )
    return number.hex(), weight.hex()


def _mean(parts: list[tuple[str, str]]) -> float:
    """Weighted mean; `math.fsum` is exactly rounded, so no order enters."""
    pairs = [(float.fromhex(v), float.fromhex(w)) for v, w in parts]
    total = math.fsum(w for _, w in pairs if w)
    try:
        return math.fsum(v * w for v, w in pairs if w) / total if total else math.nan
    except ValueError:  # inf and -inf among them
        return math.nan
