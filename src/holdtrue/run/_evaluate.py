"""Inference on virtual nodes: passes of fixed size, every example exactly once, combined in one order."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch.utils import _pytree as pytree

from holdtrue.data import Chunk, IterableSource, Loader, chunks
from holdtrue.errors import DataError, UsageError
from holdtrue.plan import stream_key

from ._elastic import gather_anew
from ._messages import join_messages, part_messages
from ._outputs import PASSES_IN_SHARD, Identity, Outputs, ShardFolder, name_writer

if TYPE_CHECKING:
    from ._core import Core


def evaluate_chunks(
    core: Core, fn: Callable[..., Mapping[str, Any]], source: Any, batch_size: int | None, number: int
) -> dict[str, float]:
    """See `Run.evaluate`."""
    own: dict[int, dict[str, tuple[str, str]]] = {}

    def gather() -> list[bytes]:
        for chunk, batch in _passes(core, source, batch_size, number, own):
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


def predict_chunks(
    core: Core,
    fn: Callable[..., Any],
    source: Any,
    batch_size: int | None,
    number: int,
    pad_value: float | None = None,
) -> Any:
    """See `Run.predict`."""
    own: dict[int, list[torch.Tensor]] = {}
    specs: list[pytree.TreeSpec] = []
    what = f"the outputs of predict (call {number})"

    def gather() -> list[bytes]:
        for chunk, batch in _passes(core, source, batch_size, number, own):
            leaves, spec = pytree.tree_flatten(call_with(fn, batch))
            own[chunk.index] = [_rows(leaf, chunk) for leaf in leaves]
            specs[:] = [spec]
        outputs = {f"{i}.{k}": leaf for i, leaves in own.items() for k, leaf in enumerate(leaves)}
        text = pytree.treespec_dumps(specs[0]).encode() if specs else b""
        return core.group.gather_bytes(join_messages([text, safetensors.torch.save(outputs)]), what=what)

    gathered: dict[str, torch.Tensor] = {}
    texts: list[bytes] = []
    for part in gather_anew(gather, core.take_up_mapping):
        text, saved = part_messages(part)
        texts += [text] if text else []
        gathered |= safetensors.torch.load(saved)
    spec = pytree.treespec_loads(texts[0].decode())
    order = sorted({int(n.partition(".")[0]) for n in gathered})
    columns = [join_passes([gathered[f"{i}.{k}"] for i in order], pad_value) for k in range(spec.num_leaves)]
    return pytree.tree_unflatten(columns, spec)


def stream_chunks(
    core: Core,
    fn: Callable[..., Any],
    source: Any,
    batch_size: int | None,
    number: int,
    pad_value: float | None,
    out: str,
) -> Outputs:
    """See `Run.predict` with `out`."""
    plan, size = core.plan, _size_of(core, batch_size)
    examples = len(source.unshuffled().order(seed=plan.seed, epoch=0))
    weights, _ = core.state.digest(core.calls.position.digested, what="weights")
    identity: Identity = {
        "examples": examples,
        "pass_size": size,
        "passes_in_shard": PASSES_IN_SHARD,
        "seed": plan.seed,
        "call": number,
        "weights": weights,
    }
    writer = name_writer(core.number, core.generation)
    span = size * PASSES_IN_SHARD
    starts = list(range(0, examples, span))

    def meet(act: Callable[[], None]) -> None:
        """All workers, once they have acted; after a loss they act again, on what is on the disk then."""

        def gather() -> list[bytes]:
            act()
            return core.group.gather_bytes(b"", what=f"the shards of predict (call {number})")

        gather_anew(gather, core.take_up_mapping)

    def write_shards() -> None:
        folder, held = ShardFolder(out, identity, writer=writer), set(core.engine.held)
        due = {
            i
            for i, start in enumerate(starts)
            if i % plan.virtual_nodes in held and not folder.has(start, min(start + span, examples))
        }
        passes: list[Any] = []
        for chunk, batch in _passes(core, source, batch_size, number, (), lambda c: c.start // span in due):
            passes.append(pytree.tree_map(lambda leaf, c=chunk: _rows(leaf, c), call_with(fn, batch)))
            if chunk.stop % span == 0 or chunk.stop == examples:
                folder.write(chunk.start // span * span, chunk.stop, passes, pad_value)
                passes = []

    def begin() -> None:
        if core.is_main:
            ShardFolder(out, identity, writer=writer).begin()

    def end() -> None:
        if core.is_main:
            ShardFolder(out, identity, writer=writer).end(starts)

    for act in (begin, write_shards, end):
        meet(act)
    return Outputs(out)


def join_passes(parts: list[torch.Tensor], pad_value: float | None) -> torch.Tensor:
    """Outputs of passes joined along their first axis; with `pad_value`, each other axis as long as the longest.

    Raises:
        UsageError: the other axes differ, and there is no value to pad with.

    >>> join_passes([torch.ones(1, 1), torch.ones(1, 2)], -1.0)
    tensor([[ 1., -1.],
            [ 1.,  1.]])
    """
    shapes = {tuple(p.shape[1:]) for p in parts}
    if len(shapes) == 1:
        return torch.cat(parts)
    shown = " and ".join(str(s) for s in sorted(shapes)[:2])
    if pad_value is None or len({len(s) for s in shapes}) > 1:
        raise UsageError(
            f"the function given to predict returned examples of shapes {shown}; all examples have one shape, or as many "
            f"axes and a pad_value. Pad the inputs to one length, or pass pad_value=... to run.predict."
        )
    longest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    padded = []
    for part in parts:
        room = part.new_full((part.shape[0], *longest), pad_value)
        room[tuple(slice(0, n) for n in part.shape)] = part
        padded.append(room)
    return torch.cat(padded)


def _rows(leaf: Any, chunk: Chunk) -> torch.Tensor:  # Any: checked here
    examples = chunk.stop - chunk.start
    if not isinstance(leaf, torch.Tensor) or leaf.dim() == 0 or leaf.shape[0] != examples:
        found = f"shape {tuple(leaf.shape)}" if isinstance(leaf, torch.Tensor) else type(leaf).__name__
        raise UsageError(
            f"the function given to predict returned {found} for {examples} examples; the first axis of "
            f"every output is examples. Return one row for each."
        )
    return leaf.detach().cpu().contiguous()


def _size_of(core: Core, batch_size: int | None) -> int:
    return batch_size or -(-core.plan.global_batch_size // core.plan.virtual_nodes)


def _passes(
    core: Core,
    source: Any,
    batch_size: int | None,
    number: int,
    done: Container[int],
    is_mine: Callable[[Chunk], bool] | None = None,
) -> Iterator[tuple[Chunk, Any]]:
    """This worker's chunks that are not done, with their batches, in eval mode, each with random streams of its own."""
    if isinstance(source, IterableSource):
        raise DataError(
            "evaluate and predict were given an iterable source; they count every example once, by its index. "
            "Pass a map-style dataset."
        )
    plan, engine = core.plan, core.engine
    source = source.unshuffled()
    order = source.order(seed=plan.seed, epoch=0)
    held = set(engine.held)
    pick = is_mine or (lambda c: c.virtual_node in held and c.index not in done)
    mine = [c for c in chunks(len(order), _size_of(core, batch_size), plan.virtual_nodes) if pick(c)]
    loader = Loader(source, seed=plan.seed, device=core.device, keep_streams=False)
    with _inference(core):
        for chunk, (_, batch) in zip(mine, loader.load(c.fetch(order) for c in mine), strict=True):
            engine.streams.set(stream_key(plan.seed, "evaluate", number, chunk.index))
            torch.clear_autocast_cache()
            with engine.numerics.around_pass():
                yield chunk, batch
    loader.close()


@contextmanager
def _inference(core: Core) -> Iterator[None]:
    """Eval mode without gradients; modes, buffers of the modules and the user's streams are put back."""
    modes = [(m, m.training) for model in core.state.models for m in model.modules()]
    streams = core.engine.streams
    streams.save()
    try:
        for model in core.state.models:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        streams.restore()


def call_with(fn: Callable[..., Any], batch: Any) -> Any:
    """Call `fn` with a batch as the training loop would unpack it: a tuple or list as arguments, else whole."""
    return fn(*batch) if isinstance(batch, tuple | list) else fn(batch)


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
