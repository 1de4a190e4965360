"""Inference on virtual nodes: passes of fixed size, every example exactly once, combined in one order."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from holdtrue.data import Chunk
from holdtrue.errors import UsageError

from ._elastic import gather_anew
from ._passes import call_with, passes_of_nodes

if TYPE_CHECKING:
    from ._core import Core


def evaluate_chunks(
    core: Core, fn: Callable[..., Mapping[str, Any]], source: Any, batch_size: int | None, number: int
) -> dict[str, float]:
    """See `Run.evaluate`."""
    own: dict[int, dict[str, tuple[str, str]]] = {}

    def gather() -> list[bytes]:
        for chunk, batch in passes_of_nodes(core, source, batch_size, number, own):
            returned = call_with(fn, batch)
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
    names = dict.fromkeys(name for i in sorted(merged) for name in merged[i])
    return {name: _mean([merged[i][name] for i in sorted(merged) if name in merged[i]]) for name in names}


def _scalar(name: str, value: Any, chunk: Chunk) -> tuple[str, str]:
    weight: Any = chunk.stop - chunk.start
    if isinstance(value, tuple):
        value, weight = value
    try:
        return float(value).hex(), float(weight).hex()
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(
            f"the function given to evaluate returned {type(value).__name__} for {name!r}; it returns one number, the mean over "
            f"the batch, or (number, weight). Reduce it first."
        ) from None


def _mean(parts: list[tuple[str, str]]) -> float:
    """Weighted mean; `math.fsum` is exactly rounded, so no order enters."""
    pairs = [(float.fromhex(v), float.fromhex(w)) for v, w in parts]
    total = math.fsum(w for _, w in pairs if w)
    return math.fsum(v * w for v, w in pairs if w) / total if total else math.nan
