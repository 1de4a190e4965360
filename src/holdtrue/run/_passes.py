"""Passes without gradients, of fixed size: what evaluation and prediction have in common."""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from holdtrue.data import Chunk, IterableSource, Loader, MapSource, chunk_at, chunks
from holdtrue.engine import KeptBuffers, specialise_compiled_shapes
from holdtrue.errors import DataError, UsageError
from holdtrue.plan import stream_key
from holdtrue.units import cut_text

from ._checks import as_whole

if TYPE_CHECKING:
    from ._core import Core


def size_of(core: Core, batch_size: int | None) -> int:
    """Examples in a pass: as asked for, else the plan's virtual-node batch size.

    Raises:
        UsageError: it is no whole number, or not positive.
    """
    if batch_size is None:
        return -(-core.plan.global_batch_size // core.plan.virtual_nodes)
    size = as_whole(batch_size)
    if size is None or size < 1:
        raise UsageError(
            f"batch_size is {cut_text(repr(batch_size), 80)}; a pass of evaluate or predict has at least 1 example, a whole "
            f"number. Pass such a number, or leave it out for the plan's."
        )
    return size


def open_in_order(source: Any) -> MapSource:  # Any: an opened source
    """A source as evaluation and prediction read it.

    Raises:
        DataError: it has no indices.
    """
    if isinstance(source, IterableSource):
        raise DataError(
            "evaluate and predict were given an iterable source; they count every example once, by its index. "
            "Pass a map-style dataset."
        )
    found: MapSource = source.unshuffled()
    return found


def passes_of_nodes(
    core: Core, source: Any, batch_size: int | None, number: int, done: Container[int]
) -> Iterator[tuple[Chunk, Any]]:
    """Passes of this worker's virtual nodes that are not done, with their batches."""
    source = open_in_order(source)
    order = source.order(seed=core.plan.seed, epoch=0)
    size, held = size_of(core, batch_size), set(core.engine.held)
    mine = [
        c
        for c in chunks(len(order), size, core.plan.virtual_nodes)
        if c.virtual_node in held and c.index not in done
    ]
    loader = Loader(
        source,
        seed=core.plan.seed,
        device=core.device,
        timeout_s=core.settings.timeout_s if source.workers.count else 0.0,
        keep_streams=False,
    )
    with closing(loader):
        yield from run_passes(core, loader, order, size, (c.index for c in mine), number)


def run_passes(
    core: Core, loader: Loader, order: Any, size: int, indices: Iterable[int], number: int
) -> Generator[tuple[Chunk, Any], None, None]:
    """Passes by their numbers, with their batches: in eval mode, each with its own random streams and the buffers of the start.

    Args:
        core: The run.
        loader: Reads the source.
        order: Positions to indices of the data set.
        size: Examples in a pass.
        indices: Numbers of passes, read lazily.
        number: The call's: bits of random numbers depend on it and on the pass, and on nothing else.
    """
    plan, engine = core.plan, core.engine

    def chunk(index: int) -> Chunk:
        return chunk_at(index, len(order), size, plan.virtual_nodes)

    specialise_compiled_shapes(plan.numerics)
    with inference(core) as kept:
        for fetch, batch in loader.load(chunk(i).fetch(order) for i in indices):
            engine.streams.set(stream_key(plan.seed, "evaluate", number, fetch.step_in_epoch))
            torch.clear_autocast_cache()
            with engine.numerics.around_pass():
                yield chunk(fetch.step_in_epoch), batch
            kept.put_back()
            kept.refuse_changes(f"in call {number} of evaluate or predict")


@contextmanager
def inference(core: Core) -> Iterator[KeptBuffers]:
    """Eval mode without gradients, of registered modules too; modes, buffers and the user's streams are put back."""
    models = core.state.named_modules()
    modes = [(m, m.training) for model in models.values() for m in model.modules()]
    kept = KeptBuffers(models)
    streams = core.engine.streams
    streams.save()
    try:
        for model in models.values():
            model.eval()
        with torch.no_grad():
            core.is_inferring = True
            yield kept
    finally:
        core.is_inferring = False
        for module, training in modes:
            module.training = training
        kept.put_back()
        streams.restore()


def call_with(fn: Callable[..., Any], batch: Any, chunk: Chunk) -> Any:
    """Call `fn` with a batch as the training loop would unpack it: a tuple or list as arguments, else whole."""
    try:
        return fn(*batch) if isinstance(batch, tuple | list) else fn(batch)
    except Exception as error:
        error.add_note(
            f"holdtrue was at examples {chunk.start} to {chunk.stop - 1} of the source, in its order"
        )
        raise


def check_structure(outputs: Any, known: pytree.TreeSpec | None) -> pytree.TreeSpec:  # Any: checked here
    """The structure of the outputs of a pass.

    Args:
        outputs: What the function given to predict returned.
        known: The structure of an earlier pass; None for the first one.

    Raises:
        UsageError: it is another one than before, or, at the first pass, one that has no text to be sent or kept as.
    """
    structure = pytree.tree_structure(outputs)
    if known is None:
        try:
            is_kept = pytree.treespec_loads(pytree.treespec_dumps(structure)) == structure
        except (NotImplementedError, TypeError, ValueError):  # a named tuple; keys that JSON has not
            is_kept = False
        if not is_kept:
            raise UsageError(
                f"the function given to predict returned a {type(outputs).__name__} whose structure cannot be written. Return a "
                f"tensor, or tensors in tuples, lists, and dicts with texts as keys."
            )
    elif structure != known:
        raise UsageError(
            f"the function given to predict returned {describe_structure(structure)} for one batch and "
            f"{describe_structure(known)} for another; the outputs of all batches are joined, name by name. Return the same "
            f"names in the same order for each."
        )
    return structure


def describe_structure(structure: pytree.TreeSpec) -> str:
    """What a function returned, for messages.

    >>> describe_structure(pytree.tree_structure({"logits": 1, "more": [2, 3]}))
    "{'logits': *, 'more': [*, *]}"
    """
    return cut_text(str(pytree.tree_unflatten([_Star()] * structure.num_leaves, structure)), 200)


class _Star:
    def __repr__(self) -> str:
        return "*"


def as_rows(leaf: Any, chunk: Chunk) -> torch.Tensor:  # Any: checked here
    """An output of one pass on the CPU.

    Raises:
        UsageError: it is no tensor with a row for each example, or not one that can be written.
    """
    examples = chunk.stop - chunk.start
    if isinstance(leaf, torch.Tensor) and (leaf.layout != torch.strided or leaf.is_nested):
        found = "a nested tensor" if leaf.is_nested else f"a tensor of layout {leaf.layout}"
        raise UsageError(
            f"the function given to predict returned {found}; outputs are dense tensors. Return output.to_dense(), or "
            f"torch.nested.to_padded_tensor(output, value)."
        )
    if isinstance(leaf, torch.Tensor) and (leaf.is_quantized or leaf.dtype == torch.complex128):
        raise UsageError(
            f"the function given to predict returned a tensor of {leaf.dtype}, which a safetensors file cannot hold. Convert "
            f"it, or return torch.view_as_real(output) of complex numbers."
        )
    if not isinstance(leaf, torch.Tensor) or leaf.dim() == 0 or leaf.shape[0] != examples:
        found = f"shape {tuple(leaf.shape)}" if isinstance(leaf, torch.Tensor) else type(leaf).__name__
        raise UsageError(
            f"the function given to predict returned {found} for {examples} examples; the first axis of "
            f"every output is examples. Return one row for each."
        )
    return leaf.detach().cpu().contiguous()
