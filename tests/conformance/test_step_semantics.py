"""What one step computes, from plain PyTorch passes: the tree's expression, rounded where the design says."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import holdtrue as ht
from holdtrue.mapping import Mapping, Tree, evaluate_tree, order_by_tree
from holdtrue.plan import divide_batch
from holdtrue.testing import run_in_process, set_pass_streams
from zoo import SEED, Case, images, pin_torch, vectors
from zoo_models import conv_net, mlp

V, B = 7, 31
CASE = Case(model="", virtual_nodes=V)
MAPPINGS = ("0-6", "0-2/3-6", "0,3,6/1,4/2,5")


@dataclass(frozen=True, slots=True, kw_only=True)
class OneStep:
    """What a step leaves before its update: gradients, and buffers."""

    gradients: list[Tensor]
    buffers: dict[str, Tensor]


def half_mlp() -> nn.Module:
    return mlp(12).to(torch.bfloat16)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[Case], torch.utils.data.TensorDataset]]] = {
    "float32": (conv_net, images),
    "bfloat16": (half_mlp, lambda case: vectors(case, 12)),
}


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x.to(next(model.parameters()).dtype)).float(), y)


def left_by_a_run(name: str) -> OneStep:
    """The first step of a run, in dataset order."""
    run = ht.init(virtual_nodes=V, global_batch_size=B, seed=SEED)
    torch.manual_seed(0)
    make, data = MODELS[name]
    model = make()
    run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for step in run.steps(data(CASE), shuffle=False):
        for x, y, _ in step:
            step.backward(loss_of(model, x, y))
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found = OneStep(gradients=gradients, buffers={n: b.clone() for n, b in model.named_buffers()})
        step.update()
        break
    return found


def plain_passes(name: str) -> list[OneStep]:
    """Each virtual node's pass by itself, from the same start; its loss scaled by its share of examples."""
    pin_torch()
    make, data = MODELS[name]
    found = []
    for v, (start, stop) in enumerate(divide_batch(B, V)):
        torch.manual_seed(0)
        model = make()
        x, y = (column[start:stop].clone() for column in data(CASE).tensors[:2])
        set_pass_streams(SEED, 0, 0, v)
        (loss_of(model, x, y) * ((stop - start) / (B / V))).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append(OneStep(gradients=gradients, buffers=dict(model.named_buffers())))
    return found


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("name", MODELS)
def test_a_gradient_is_the_trees_expression_over_plain_passes_in_float32_and_is_rounded_once(
    name: str, mapping: str
) -> None:
    passes = plain_passes(name)
    tree = order_by_tree(Mapping(V, (tuple(range(V)),)))
    for found in run_in_process(functools.partial(left_by_a_run, name), mapping=mapping):
        for i, gradient in enumerate(found.gradients):
            leaves: dict[Tree, Tensor] = {v: p.gradients[i].float() for v, p in enumerate(passes)}
            expected = evaluate_tree(tree, leaves, torch.add) * ((B / V) / B)
            assert torch.equal(gradient, expected.to(gradient.dtype)), f"parameter {i}"


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_running_statistics_are_the_mean_over_examples_and_count_one_batch_a_step(mapping: str) -> None:
    passes = plain_passes("float32")
    weights = [b - a for a, b in divide_batch(B, V)]
    assert len(set(weights)) > 1
    for found in run_in_process(functools.partial(left_by_a_run, "float32"), mapping=mapping):
        for name, value in found.buffers.items():
            if name.endswith("num_batches_tracked"):
                assert value == 1
                continue
            mean = sum(w * p.buffers[name].double() for w, p in zip(weights, passes, strict=True)) / B
            # the sum is in float64 and rounded once: half a unit in the last place of float32
            assert torch.allclose(value.double(), torch.as_tensor(mean), rtol=2.0**-23, atol=1e-12)
            assert not torch.allclose(
                value, torch.stack([p.buffers[name] for p in passes]).mean(0), rtol=1e-5
            )
