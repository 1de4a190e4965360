"""Passes of one shape: an example's answer must not depend on its position, its neighbours or what fills the pass up.

A fixed shape is not enough. With 50 features in float32 every second row of a batch is off a 16-byte boundary, and
its matrix product has other bits than that of the row before. So the positions are tried out, and only those whose
bits are those of position 0 are used.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from holdtrue.errors import UsageError
from holdtrue.serving import DTYPES

Example = dict[str, torch.Tensor]
Outputs = dict[str, torch.Tensor]
Compute = Callable[[Example], Outputs]
"""From inputs with an axis of examples in front to outputs with the same."""

# K trial examples, B positions of a pass.
VARIANTS = 5
"""K; no divisor of the usual sizes of a pass, so that rotations bring every example to every position."""


def lay_out(examples: Sequence[Example], positions: Sequence[int], size: int) -> Example:
    """Inputs of a pass, freshly allocated: examples at their positions, and the first of them everywhere else.

    >>> lay_out([{"x": torch.tensor(1)}, {"x": torch.tensor(2)}], (0, 2), 4)["x"].tolist()
    [1, 1, 2, 1]
    """
    rows = [examples[0]] * size
    for position, example in zip(positions, examples, strict=False):
        rows[position] = example
    return {name: torch.stack([row[name] for row in rows]) for name in examples[0]}


def name_outputs(found: Any, size: int) -> Outputs:  # Any: what the model returned
    """Outputs by name, on the CPU; bfloat16 and float16 widen to float32.

    Raises:
        UsageError: one is no tensor with the examples in front, or of elements that a server does not send.
    """
    if isinstance(found, torch.Tensor):
        named = {"output": found}
    elif isinstance(found, dict):
        named = {str(name): value for name, value in found.items()}
    elif isinstance(found, tuple | list):
        named = {f"output_{i}": value for i, value in enumerate(found)}
    else:
        named = {"output": found}
    outputs: Outputs = {}
    for name, value in named.items():
        if (
            not isinstance(value, torch.Tensor)
            or value.dim() == 0
            or len(value) != size
            or value.is_complex()
        ):
            what = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise UsageError(
                f"the model's {name} is of {what} for {size} examples; the first axis of every output is the examples. "
                f"Return one row of real numbers for each."
            )
        widened = value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
        if (dtype := str(widened.dtype).removeprefix("torch.")) not in DTYPES:
            raise UsageError(
                f"the model's {name} is of {dtype}; a server sends {', '.join(DTYPES)}. Convert it to one of them in the model."
            )
        outputs[name] = widened.detach().cpu().contiguous()
    return outputs


def bits_of(outputs: Outputs, position: int) -> bytes:
    """The bits of one example's outputs."""
    return b"".join(outputs[name][position].numpy().tobytes() for name in sorted(outputs))


def agreeing_positions(compute: Compute, variants: Sequence[Example], size: int) -> tuple[int, ...]:
    """Positions whose bits are those of position 0 alone, for every trial example among other neighbours.

    Returns:
        Ascending; empty where even position 0 depends on its neighbours: the model mixes examples.

    Raises:
        UsageError: asked again, the model answers otherwise.
    """
    alone, again = (
        [bits_of(compute(lay_out([example], (0,), size)), 0) for example in variants] for _ in range(2)
    )
    if alone != again:
        raise UsageError(
            "the model gives the same example another answer when it is asked again: it keeps a state from pass to pass, or "
            "draws random numbers that are not torch's. An answer must not depend on what was asked before. Let forward "
            "change nothing of the model, or serve it with --numerics fast."
        )
    agreeing = set(range(size))
    for turn in range(len(variants)):
        order = [(position + turn) % len(variants) for position in range(size)]
        outputs = compute(lay_out([variants[k] for k in order], range(size), size))
        agreeing -= {p for p in agreeing if bits_of(outputs, p) != alone[order[p]]}
    return tuple(sorted(agreeing)) if 0 in agreeing else ()


def vary(example: Example, count: int = VARIANTS) -> list[Example]:
    """Trial examples like one: fractions with noise, whole numbers turned round along their last axis.

    >>> [v["x"].tolist() for v in vary({"x": torch.tensor([1, 2, 3])}, 3)]
    [[1, 2, 3], [3, 1, 2], [2, 3, 1]]
    """
    generator = torch.Generator().manual_seed(0)
    found = [example]
    for k in range(1, count):
        other: Example = {}
        for name, value in example.items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator, dtype=torch.float32).to(value.dtype)
                other[name] = value + noise * (value.abs().mean() + 0.1)
            else:
                other[name] = value.roll(k, -1) if value.dim() else value
        found.append(other)
    return found
