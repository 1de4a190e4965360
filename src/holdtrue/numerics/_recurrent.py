"""A direction of a recurrent layer in one kernel forward and one backward, with the bits of the operators of `_composites.py`.

The kernels keep the order of every operation, and autograd keeps its own: the recurrent weight and bias enter once for each
step, so that their gradients are added step by step, last step first, as those of single operators are. Where the kernels
cannot serve (another device or dtype, transforms, values that are not finite) the operators run. A second derivative would add
its parts in another order than operators do, so it is refused; within `unfused_layers` operators run alone.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from holdtrue.errors import NumericsError

from ._native import native

# T steps, N sequences, H features of the state, G gates of H features

KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
"""In the order of their numbers in `_recurrent.h`."""

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}

MOST_GRADIENTS = 1 << 24
"""Float32 numbers of the weight's gradients, one for each step, that are kept at once; a longer layer runs by operators."""

State = tuple[Tensor, ...]
Operators = Callable[..., tuple[Tensor, State]]
"""(kind, gates, state, weights of each step, biases of each step, backwards) -> outputs, last state."""


class _Depth(threading.local):
    value = 0


_unfused = _Depth()


@contextmanager
def unfused_layers() -> Iterator[None]:
    """Within it recurrent layers run operator by operator in this thread: slower, with the same bits.

    A second derivative (`create_graph=True`) through an LSTM, GRU or RNN needs its forward within it.
    """
    _unfused.value += 1
    try:
        yield
    finally:
        _unfused.value -= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What a direction of a layer is, beside its tensors."""

    kind: str
    backwards: bool
    slices: int
    operators: Operators


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """Results of the forward kernel, and what the backward one needs; None where the kind has none."""

    out: Tensor
    cells: Tensor | None
    act: Tensor | None
    more: Tensor | None


def _place(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _fits(x: Tensor) -> bool:
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.dtype == torch.float32
        and x.layout == torch.strided
        and x.numel() > 0
    )


def _can_serve(layer: Layer, gates: Tensor, state: State, w: Tensor, b: Tensor | None) -> bool:
    given = [gates, *state, w, *([] if b is None else [b])]
    T, N, _ = gates.shape
    H = w.shape[1]
    G = GATES[layer.kind] * H
    shapes_fit = gates.shape[2] == G and w.shape[0] == G and all(s.shape == (N, H) for s in state)
    return (
        _unfused.value == 0
        and all(_fits(x) for x in given)
        and shapes_fit
        and (b is None or b.shape == (G,))
        and T * w.numel() <= MOST_GRADIENTS
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not torch.is_autocast_enabled("cpu")
    )


def run_layer(
    layer: Layer, gates: Tensor, state: State, w: Tensor, b: Tensor | None
) -> tuple[Tensor, State] | None:
    """A direction of a layer, or None where operators must do it.

    Args:
        layer: What it is.
        gates: `[T, N, G * H]`, the product of the inputs and its bias.
        state: h, and for an LSTM c; `[N, H]` each.
        w: Recurrent weight `[G * H, H]`.
        b: Its bias `[G * H]`, or None.

    Returns:
        Outputs `[T, N, H]` and the last state.
    """
    found = native(gates, *state, w, *([] if b is None else [b]))
    if found is None or gates.dim() != 3 or not _can_serve(layer, gates, state, w, b):
        return None
    with torch.no_grad():
        done = _forward(found, layer, gates, state, w, b)
    if done is None:
        return None
    T = gates.shape[0]
    past = (
        [state[0]] if layer.kind == "gru" else []
    )  # the same tensor by two ways, in the order of their gradients
    out, *last = _Steps.apply(  # type: ignore[no-untyped-call]  # torch's own
        layer, done, b is not None, gates, *past, *state, *[w] * T, *([] if b is None else [b] * T)
    )
    return out, tuple(last)


def _forward(
    found: tuple[ctypes.CDLL, int], layer: Layer, gates: Tensor, state: State, w: Tensor, b: Tensor | None
) -> _Found | None:
    T, N, G = gates.shape
    H = w.shape[1]
    is_lstm, has_gates = layer.kind == "lstm", layer.kind in ("lstm", "gru")
    x, w, b = gates.contiguous(), w.contiguous(), None if b is None else b.contiguous()
    state = tuple(s.contiguous() for s in state)
    out = torch.empty((T, N, H))
    cells = torch.empty((T, N, H)) if is_lstm else None
    act = torch.empty((T, N, G)) if has_gates else None
    more = torch.empty((T, N, H)) if has_gates else None
    status = found[0].ht_recurrent(
        KINDS.index(layer.kind), x.data_ptr(), w.data_ptr(), _place(b), state[0].data_ptr(),
        _place(state[1] if is_lstm else None), out.data_ptr(), _place(cells), _place(act), _place(more), T, N, H,
        int(layer.backwards), layer.slices, found[1],
    )  # fmt: skip
    if status < 0:
        raise MemoryError("no memory for a recurrent layer")
    return None if status else _Found(out=out, cells=cells, act=act, more=more)


class _Steps(torch.autograd.Function):
    """All steps of a direction of a layer."""

    @staticmethod
    def forward(
        ctx: Any, layer: Layer, found: _Found, has_bias: bool, gates: Tensor, *given: Tensor
    ) -> tuple[Tensor, ...]:
        """Outputs, and the last state. Any: autograd's context."""
        at = 0 if layer.backwards else -1
        ctx.layer, ctx.has_bias = layer, has_bias
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gates, *given, found.out, found.cells, found.act, found.more)
        last = [found.out[at].clone()]
        if found.cells is not None:
            last.append(found.cells[at].clone())
        return found.out, *last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # Any: as above
        """Gradients of gates, state, and of weight and bias for each step, the last step first."""
        *given, out, cells, act, more = ctx.saved_tensors
        found = _Found(out=out, cells=cells, act=act, more=more)
        if all(g is None for g in grads):
            return (None,) * (len(given) + 3)
        wanted = ctx.needs_input_grad[3:]
        with torch.no_grad():
            done = _backward(ctx.layer, found, ctx.has_bias, given, grads, wanted)
            if done is None:
                done = _by_operators(ctx.layer, ctx.has_bias, given, grads, wanted)
        if torch.is_grad_enabled():
            once = _Once.apply
            done = [None if g is None else once(g, *given, *grads) for g in done]  # type: ignore[no-untyped-call]  # torch's
        return None, None, None, *done


class _Once(torch.autograd.Function):
    """A gradient of a layer that has no derivative of its own."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, *_: Tensor | None) -> Tensor:
        """The gradient, as it is. Any: autograd's context."""
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        """Refuses. Any: as above."""
        raise NumericsError(
            "a second derivative through a recurrent layer, whose kernel has only a first; portable numerics must add its parts "
            "in one order. Run the layer's forward within holdtrue.numerics.unfused_layers()."
        )


def _split(layer: Layer, has_bias: bool, given: Sequence[Tensor]) -> tuple[int, int]:
    """Where the weights begin in what `_Steps` was given, and how many steps there are."""
    first = {"lstm": 3, "gru": 3}.get(layer.kind, 2)
    return first, (len(given) - first) // (2 if has_bias else 1)


def _backward(
    layer: Layer,
    found: _Found,
    has_bias: bool,
    given: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None] | None:
    """By the kernel; None where it cannot."""
    first, T = _split(layer, has_bias, given)
    gates, w = given[0], given[first].contiguous()
    h0 = given[1].contiguous()
    c0 = given[2].contiguous() if layer.kind == "lstm" else None
    g_out, g_h, g_c = (None if g is None else g.contiguous() for g in (*grads, None)[:3])
    kernels = native(*[g for g in (g_out, g_h, g_c) if g is not None])
    if kernels is None or (g_out is None and g_h is None):
        return None
    if any(g is not None and g.dtype != torch.float32 for g in (g_out, g_h, g_c)):
        return None
    N, H = h0.shape
    d_gates, d_h0 = torch.empty_like(gates, memory_format=torch.contiguous_format), torch.empty_like(h0)
    d_more = None if layer.kind.startswith("rnn") else torch.empty_like(h0)
    d_w = torch.empty((T, *w.shape)) if wanted[first] else None
    d_b = torch.empty((T, w.shape[0])) if has_bias and wanted[first + T] else None
    is_lstm = layer.kind == "lstm"
    status = kernels[0].ht_recurrent_back(
        KINDS.index(layer.kind), _place(g_out), _place(g_h), _place(g_c), w.data_ptr(), h0.data_ptr(), _place(c0),
        found.out.data_ptr(), _place(found.cells), _place(found.act), _place(found.more), d_gates.data_ptr(), _place(d_w),
        _place(d_b), None if is_lstm else _place(d_more), d_h0.data_ptr(), _place(d_more) if is_lstm else None, T, N, H,
        int(layer.backwards), layer.slices, kernels[1],
    )  # fmt: skip
    if status < 0:
        raise MemoryError("no memory for the gradients of a recurrent layer")
    if status:
        return None
    states = [d_h0] if d_more is None else [d_h0, d_more] if is_lstm else [d_more, d_h0]
    each_w: Sequence[Tensor | None] = [None] * T if d_w is None else d_w.unbind()
    each_b: Sequence[Tensor | None] = [] if not has_bias else [None] * T if d_b is None else d_b.unbind()
    return [d_gates, *states, *each_w, *each_b]


def _by_operators(
    layer: Layer,
    has_bias: bool,
    given: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Through the operators once more, where the kernel cannot."""
    first, T = _split(layer, has_bias, given)
    with torch.enable_grad():
        aliases = [x.detach().requires_grad_(need) for x, need in zip(given, wanted, strict=True)]
        steps, biases = (
            aliases[first : first + T][::-1],
            aliases[first + T :][::-1] if has_bias else [None] * T,
        )
        out, last = layer.operators(
            layer.kind, aliases[0], tuple(aliases[1:first]), steps, biases, layer.backwards
        )
        ends = [(y, g) for y, g in zip((out, *last), grads, strict=True) if g is not None]
        inputs = [x for x, need in zip(aliases, wanted, strict=True) if need]
        asked = [y for y, _ in ends], inputs, [g for _, g in ends]
        got = iter(torch.autograd.grad(*asked, allow_unused=True))
    return [next(got) if need else None for need in wanted]
