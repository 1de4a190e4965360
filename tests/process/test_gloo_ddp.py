"""V = w virtual nodes against DistributedDataParallel on w gloo processes: the same training, to rounding."""

import functools
import gc
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import holdtrue as ht
from holdtrue.data import epoch_order
from holdtrue.testing import set_pass_streams
from pool import GROUP_TIMEOUT_S, Pool, Seat
from zoo import SEED, Case, images, per_word, pin_torch, sentences
from zoo_models import Transformer, conv_net

pytestmark = pytest.mark.process

PASS = 5
STEPS = 6
LEARNING_RATE, MOMENTUM, MAX_NORM = 0.05, 0.9, 1.0


def tolerance(workers: int) -> float:
    """How far two weights may lie apart after STEPS steps.

    Both add the same w gradients, in another order, and divide by w: each addition or division rounds by at
    most 2**-24 of the result, so gradients differ by (w + 2) * 2**-24 of at most MAX_NORM. A difference
    reaches the weights times learning rate / (1 - momentum) in every later step. The factor 8 is for what
    changed weights do to the gradients that follow.
    """
    gain = LEARNING_RATE / (1 - MOMENTUM)
    return 8 * STEPS * gain * (workers + 2) * 2.0**-24 * MAX_NORM


def task(name: str, examples: int) -> tuple[nn.Module, Any, Any]:
    """Model, data and loss, with the same first values each time. Optimizers that divide by a second moment
    would blow rounding up wherever a gradient is almost zero: hence SGD."""
    torch.manual_seed(0)
    case = Case(model=name, virtual_nodes=(examples + 7) // 8)
    if name == "conv":
        return conv_net(), images(case), lambda m, x, y: F.cross_entropy(m(x), y)
    return Transformer(), sentences(case), lambda m, x, y: per_word(m(x), y)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)


def weights_of(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def parallel_part(seat: Seat, name: str) -> list[list[Tensor]]:
    """Weights after every step of one process under DistributedDataParallel, averaging as torch does."""
    pin_torch()
    batch = PASS * seat.world_size
    plain, data, loss_of = task(name, STEPS * batch)
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore(seat.name, seat.store),
        rank=seat.rank,
        world_size=seat.world_size,
        timeout=timedelta(seconds=GROUP_TIMEOUT_S),
    )
    # The reducer that DistributedDataParallel leaves behind joins gloo's threads if it holds the last reference to
    # the group, and holds the interpreter's lock the while, for which such a thread may wait: three hangs. So it
    # goes first, and this reference, which lets go of the lock, goes last (docs/log.md).
    group = dist.group.WORLD
    try:
        return parallel_steps(seat, plain, data, loss_of)
    finally:
        gc.collect()
        seat.meet("the end of training")  # leaving early cuts off what a slower process still reads
        dist.destroy_process_group()
        del group


def parallel_steps(seat: Seat, plain: nn.Module, data: Any, loss_of: Any) -> list[list[Tensor]]:
    """The loop itself: when it returns, nothing of torch's wrapper lives on."""
    batch = PASS * seat.world_size
    model = nn.parallel.DistributedDataParallel(plain, broadcast_buffers=False)
    optimizer = sgd(model)
    order = epoch_order(len(data), seed=SEED, epoch=0, shuffle=True).tolist()
    found = []
    for step in range(STEPS):
        start = step * batch + seat.rank * PASS
        x, y, _ = data[order[start : start + PASS]]
        set_pass_streams(SEED, step, 0, seat.rank)
        loss_of(model, x, y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
        found.append(weights_of(plain))
    return found


def held_part(name: str, workers: int) -> list[list[Tensor]]:
    """Weights after every step of a run with V = w."""
    batch = PASS * workers
    run = ht.init(virtual_nodes=workers, global_batch_size=batch, seed=SEED)
    model, data, loss_of = task(name, STEPS * batch)
    run.prepare(model, sgd(model))
    found = [weights_of(model)]
    for step in run.steps(data):
        for x, y, _ in step:
            step.backward(loss_of(model, x, y))
        step.update(max_grad_norm=MAX_NORM)
        found.append(weights_of(model))
        if len(found) > STEPS:
            run.stop("as many steps as the other loop has")
    return found


def largest_difference(here: list[Tensor], there: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("workers", [2, 3, 4])
@pytest.mark.parametrize("name", ["conv", "transformer"])
def test_a_run_agrees_with_distributed_data_parallel_to_float32_rounding(
    name: str, workers: int, gloo_pool: Pool
) -> None:
    parallel = gloo_pool.each(functools.partial(parallel_part, name=name), world_size=workers)[0]
    start, *held = gloo_pool.run(functools.partial(held_part, name, workers), workers=workers)[0][: STEPS + 1]
    for step in range(STEPS):
        assert largest_difference(held[step], parallel[step]) <= tolerance(workers), f"step {step}"
    assert largest_difference(held[-1], start) > 1000 * tolerance(workers), "training went somewhere"
