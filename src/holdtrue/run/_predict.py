"""Prediction in memory: outputs of all passes, joined in the order of the data set, on every worker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch.utils import _pytree as pytree

from holdtrue.errors import UsageError

from ._checks import check_function
from ._elastic import gather_anew
from ._messages import join_messages, part_messages
from ._passes import as_rows, call_with, check_structure, passes_of_nodes

if TYPE_CHECKING:
    from ._core import Core


def predict_chunks(
    core: Core,
    fn: Callable[..., Any],
    source: Any,
    batch_size: int | None,
    number: int,
    pad_value: float | None = None,
) -> Any:
    """See `Run.predict`."""
    check_function("run.predict", fn)
    own: dict[int, list[torch.Tensor]] = {}
    structure: pytree.TreeSpec | None = None
    what = f"the outputs of predict (call {number})"

    def gather() -> list[bytes]:
        nonlocal structure
        for chunk, batch in passes_of_nodes(core, source, batch_size, number, own):
            returned = call_with(fn, batch, chunk)
            structure = check_structure(returned, structure)
            own[chunk.index] = [as_rows(leaf, chunk) for leaf in pytree.tree_leaves(returned)]
        outputs = {f"{i}.{k}": leaf for i, leaves in own.items() for k, leaf in enumerate(leaves)}
        text = b"" if structure is None else pytree.treespec_dumps(structure).encode()
        return core.group.gather_bytes(join_messages([text, safetensors.torch.save(outputs)]), what=what)

    gathered: dict[str, torch.Tensor] = {}
    texts: list[bytes] = []
    for part in gather_anew(gather, core.take_up_mapping):
        text, saved = part_messages(part)
        texts += [text] if text else []
        gathered |= safetensors.torch.load(saved)
    spec = one_structure([text.decode() for text in texts])
    order = sorted({int(n.partition(".")[0]) for n in gathered})
    columns = [join_passes([gathered[f"{i}.{k}"] for i in order], pad_value) for k in range(spec.num_leaves)]
    return pytree.tree_unflatten(columns, spec)


def one_structure(texts: Sequence[str]) -> pytree.TreeSpec:
    """The structure of all outputs, from that of each worker or file.

    Args:
        texts: As `pytree.treespec_dumps` writes them, at least one.

    Raises:
        UsageError: they differ.
    """
    structure = pytree.treespec_loads(texts[0])
    for other in sorted(set(texts[1:]) - {texts[0]}):
        check_structure(
            pytree.tree_unflatten([0] * (found := pytree.treespec_loads(other)).num_leaves, found), structure
        )
    return structure


def join_passes(parts: list[torch.Tensor], pad_value: float | None) -> torch.Tensor:
    """Outputs of passes joined along their first axis; with `pad_value`, each other axis as long as the longest.

    Raises:
        UsageError: see `longest_row`.

    >>> join_passes([torch.ones(1, 1), torch.ones(1, 2)], -1.0)
    tensor([[ 1., -1.],
            [ 1.,  1.]])
    """
    row = longest_row({tuple(p.shape[1:]) for p in parts}, pad_value)
    return torch.cat([fill_up(p, row, pad_value) for p in parts])


def longest_row(shapes: Collection[tuple[int, ...]], pad_value: float | None) -> tuple[int, ...]:
    """Shape of an example's outputs if passes gave examples of these shapes. Pure.

    Raises:
        UsageError: they differ, and there is no value to pad with, or they have unlike numbers of axes.

    >>> longest_row({(2, 3), (4, 1)}, 0.0)
    (4, 3)
    """
    if len(shapes) > 1 and (pad_value is None or len({len(s) for s in shapes}) > 1):
        shown = " and ".join(str(s) for s in sorted(shapes)[:2])
        raise UsageError(
            f"the function given to predict returned examples of shapes {shown}; all examples have one shape, or as many "
            f"axes and a pad_value. Pad the inputs to one length, or pass pad_value=... to run.predict."
        )
    return tuple(max(sizes) for sizes in zip(*shapes, strict=True))


def fill_up(part: torch.Tensor, row: tuple[int, ...], pad_value: float | None) -> torch.Tensor:
    """Outputs with examples of shape `row`: `part` itself where it has them, else filled up with `pad_value`."""
    if part.shape[1:] == row:
        return part
    assert pad_value is not None, "rows of unlike shapes have a value to be filled up with"
    room = part.new_full((part.shape[0], *row), pad_value)
    room[tuple(slice(0, n) for n in part.shape)] = part
    return room
