"""From reduced gradients to new parameters: local, and the same on every worker."""

from collections.abc import Sequence

import torch

from ._state import Optimizer, TrainingState


def apply_gradients(
    state: TrainingState,
    device: torch.device,
    optimizers: Sequence[Optimizer],
    max_grad_norm: float | None,
) -> float | None:
    """Unscale, clip, step optimizers and their schedulers.

    Args:
        state: Holds gradient scalers and schedulers.
        device: This worker's device.
        optimizers: Those to step; their parameters hold the reduced gradient.
        max_grad_norm: Largest total norm of the gradients; None does not clip.

    Returns:
        The total norm before clipping, or None without `max_grad_norm`.
    """
    norm = None
    scaled = [o for o in optimizers if has_gradient(o)]
    for scaler in state.scalers:
        scaler.scale(torch.zeros((), device=device))  # a worker without passes has not met its scale yet
        for optimizer in scaled:
            scaler.unscale_(optimizer)
    if max_grad_norm is not None:
        parameters = [
            p for o in optimizers for group in o.param_groups for p in group["params"] if p.grad is not None
        ]
        total = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, total)
        norm = float(total)
    for optimizer in optimizers:
        _step(state, optimizer)
    for scaler in state.scalers if scaled else ():
        scaler.update()
    return norm


def _step(state: TrainingState, optimizer: Optimizer) -> None:
    skipped = False
    if state.scalers and has_gradient(optimizer):  # a scaler refuses an optimizer without any
        scaler = state.scalers[0]
        before = scaler.get_scale()
        scaler.step(optimizer)
        found = scaler._found_inf_per_device(optimizer).values() if scaler.is_enabled() else []
        skipped = any(float(inf) for inf in found)
        assert before == scaler.get_scale(), "the scale changes in scaler.update() only"
    else:
        optimizer.step()
    for scheduler in state.schedulers:
        if scheduler.optimizer is optimizer and not skipped and not _needs_metric(scheduler):
            scheduler.step()


def has_gradient(optimizer: Optimizer) -> bool:
    """Whether any of its parameters has a gradient."""
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


def _needs_metric(scheduler: object) -> bool:
    return isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
