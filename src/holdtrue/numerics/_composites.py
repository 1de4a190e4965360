"""Functions that torch computes as one operator on some devices and as several on others: here always as several.

They run above autograd, so their gradients are those of the operators they are made of. They are put in place of
torch's own functions, where torch's modules find them, and step aside where the mode is not open; a function mode would
not do: it is off inside the functions that it sees, so in backward and in multi-head attention.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from holdtrue.errors import NumericsError

from ._recurrent import Layer, run_layer

# T time, N sequences, E features in, H features of the state


def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """x with each element 0 with probability p, else divided by 1 - p; random numbers from the stream of the pass."""
    if not training or p == 0.0:
        return x
    with torch.no_grad():
        mask = torch.empty_like(x).bernoulli_(1.0 - p).div_(1.0 - p) if p < 1.0 else torch.zeros_like(x)
    return x.mul_(mask) if inplace else x * mask


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query @ key^T * scale + mask) @ value; a row that is masked whole gives zeros."""
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    factor = 1.0 / math.sqrt(query.size(-1)) if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        else:
            scores = scores + attn_mask
    weights = torch.ops.aten._safe_softmax(scores, -1)
    return dropout(weights, dropout_p) @ value


def _lstm_step(
    gates: Tensor, state: tuple[Tensor, ...], w_hh: Tensor, b_hh: Tensor | None
) -> tuple[Tensor, ...]:
    h, c = state
    i, f, g, o = (gates + torch.nn.functional.linear(h, w_hh, b_hh)).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru_step(
    gates: Tensor, state: tuple[Tensor, ...], w_hh: Tensor, b_hh: Tensor | None
) -> tuple[Tensor, ...]:
    past, h = state[0], state[-1]  # the same, unless their gradients are asked for one by one
    xr, xz, xn = gates.chunk(3, -1)
    hr, hz, hn = torch.nn.functional.linear(h, w_hh, b_hh).chunk(3, -1)
    r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
    n = (xn + r * hn).tanh()
    return (n + z * (past - n),)


def _plain_step(act: Callable[[Tensor], Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    def step(
        gates: Tensor, state: tuple[Tensor, ...], w_hh: Tensor, b_hh: Tensor | None
    ) -> tuple[Tensor, ...]:
        return (act(gates + torch.nn.functional.linear(state[0], w_hh, b_hh)),)

    return step


STEPS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "lstm": _lstm_step,
    "gru": _gru_step,
    "rnn_tanh": _plain_step(torch.tanh),
    "rnn_relu": _plain_step(torch.relu),
}


def _run_steps(
    kind: str,
    gates: Tensor,
    state: tuple[Tensor, ...],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    backwards: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All steps by operators; `weights` and `biases` are those of each step, as they come."""
    out: list[Tensor] = []
    times = range(gates.shape[0])
    for t, w, b in zip(reversed(times) if backwards else times, weights, biases, strict=True):
        state = STEPS[kind](gates[t], state, w, b)
        out.append(state[0])
    return torch.stack(out[::-1] if backwards else out), state


def _run_layer(
    kind: str, x: Tensor, state: tuple[Tensor, ...], weights: Sequence[Tensor | None], backwards: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One direction of one layer; x is [T, N, E]."""
    w_ih, w_hh, b_ih, b_hh = weights
    assert w_ih is not None, "a layer has weights"
    assert w_hh is not None, "a layer has weights"
    gates = torch.nn.functional.linear(x, w_ih, b_ih)
    slices = _slices_here()
    if slices is not None:
        layer = Layer(kind=kind, backwards=backwards, slices=slices, operators=_run_steps)
        done = run_layer(layer, gates, state, w_hh, b_hh)
        if done is not None:
            return done
    T = x.shape[0]
    return _run_steps(kind, gates, state, [w_hh] * T, [b_hh] * T, backwards)


def _run_packed(
    kind: str,
    x: Tensor,
    sizes: list[int],
    state: tuple[Tensor, ...],
    weights: Sequence[Tensor | None],
    backwards: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One direction of one layer over a packed sequence: x is [sum of sizes, E], sizes fall."""
    w_ih, w_hh, b_ih, b_hh = weights
    assert w_ih is not None, "a layer has weights"
    gates = torch.nn.functional.linear(x, w_ih, b_ih).split(sizes)
    out: list[Tensor] = [x] * len(sizes)
    first, ends = state, []
    now = tuple(s[: sizes[-1]] for s in state) if backwards else state
    for t in reversed(range(len(sizes))) if backwards else range(len(sizes)):
        held, n = now[0].shape[0], sizes[t]
        if n < held:  # forwards: sequences that are over keep their state
            ends.append(tuple(s[n:] for s in now))
            now = tuple(s[:n] for s in now)
        elif n > held:  # backwards: sequences that begin here
            now = tuple(torch.cat([s, f[held:n]]) for s, f in zip(now, first, strict=True))
        now = STEPS[kind](gates[t], now, w_hh, b_hh)
        out[t] = now[0]
    parts = [now, *reversed(ends)]
    return torch.cat(out), tuple(torch.cat([part[i] for part in parts]) for i in range(len(now)))


def _layers(
    kind: str,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    p: float,
    train: bool,
    bidirectional: bool,
    run: Callable[..., tuple[Tensor, tuple[Tensor, ...]]],
) -> tuple[Tensor, ...]:
    """All layers and directions; `run` does one."""
    directions = 2 if bidirectional else 1
    per = len(weights) // (layers * directions)
    if per != (4 if has_biases else 2):
        raise NumericsError(
            f"{kind} has {per} weights a layer; portable numerics knows layers without projections. Leave out proj_size."
        )
    ends: list[tuple[Tensor, ...]] = []
    for layer in range(layers):
        parts = []
        for d in range(directions):
            at = layer * directions + d
            own = [*weights[at * per : (at + 1) * per], *([] if has_biases else [None, None])]
            out, end = run(x, tuple(s[at] for s in states), own, d == 1)
            parts.append(out)
            ends.append(end)
        x = parts[0] if directions == 1 else torch.cat(parts, -1)
        if layer + 1 < layers:
            x = dropout(x, p, train)
    return (x, *(torch.stack([end[i] for end in ends]) for i in range(len(states))))


def recurrent(kind: str) -> Callable[..., Any]:
    """`torch.lstm`, `torch.gru`, `torch.rnn_tanh` or `torch.rnn_relu` made of products and elementwise operators."""

    def run(*arguments: Any) -> Any:  # Any: torch's own signatures, with and without packed sequences
        is_packed = isinstance(arguments[1], Tensor) and not arguments[1].is_floating_point()
        if is_packed:
            x, batch_sizes, hidden, weights, has_biases, layers, p, train, bidirectional = arguments
            sizes = batch_sizes.tolist()
            one = functools.partial(_packed_direction, kind, sizes)
        else:
            x, hidden, weights, has_biases, layers, p, train, bidirectional, batch_first = arguments
            x = x.transpose(0, 1) if batch_first else x
            one = functools.partial(_run_layer, kind)
        states = list(hidden) if kind == "lstm" else [hidden]
        out = _layers(kind, x, states, weights, has_biases, layers, p, train, bidirectional, one)
        return (out[0].transpose(0, 1), *out[1:]) if not is_packed and batch_first else out

    return run


def _packed_direction(
    kind: str,
    sizes: list[int],
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: Sequence[Tensor | None],
    backwards: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    return _run_packed(kind, x, sizes, state, weights, backwards)


def _choose(
    is_active: Callable[[], bool], portable: Callable[..., Any], plain: Callable[..., Any]
) -> Callable[..., Any]:
    @functools.wraps(plain)
    def either(*args: Any, **kwargs: Any) -> Any:  # Any: torch's own signatures
        return (portable if is_active() else plain)(*args, **kwargs)

    either.__dict__["is_portable_choice"] = True
    return either


def _nowhere() -> int | None:
    return None


_slices_here: Callable[[], int | None] = _nowhere


def take_over(slices_here: Callable[[], int | None]) -> None:
    """Put the composites where torch's modules find them, once in a process.

    Args:
        slices_here: Digits of the mode that is open here, or None: there torch's own functions run.
    """
    global _slices_here
    _slices_here = slices_here

    def is_active() -> bool:
        return slices_here() is not None

    for place, name, portable in _places():
        plain = getattr(place, name)
        if not getattr(plain, "is_portable_choice", False):
            setattr(place, name, _choose(is_active, portable, plain))


def give_back() -> None:
    """Put torch's own functions back: for a process that compiles after it was portable, since dynamo sees the choice."""
    for place, name, _ in _places():
        choice = getattr(place, name)
        if getattr(choice, "is_portable_choice", False):
            setattr(place, name, choice.__wrapped__)


COMPOSITES = ("scaled_dot_product_attention", "dropout", *STEPS)
"""Functions of torch that are taken over whole."""


def _places() -> list[tuple[Any, str, Callable[..., Any]]]:
    return [
        (torch.nn.functional, "scaled_dot_product_attention", attention),
        (torch.nn.functional, "dropout", dropout),
        *((torch._VF, kind, recurrent(kind)) for kind in STEPS),
    ]
