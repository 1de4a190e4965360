"""The sources that the script gives to a run: opened, and as what the steps of a loop read."""

from collections.abc import Callable
from typing import Any

import torch

from holdtrue.data import IterableSource, MapSource, open_source
from holdtrue.errors import UsageError

from ._core import Core
from ._feed import Feed, IterableFeed, MapFeed


def open_for(
    core: Core,
    source: Any,  # Any: see Run.steps
    collate_fn: Callable[[list[Any]], Any] | None,
    *,
    num_workers: int = 0,
    shuffle: bool = True,
) -> MapSource | IterableSource:
    """Open a source, and say what of it the plan replaces.

    Args:
        core: The run.
        source: See `Run.steps`, as the other arguments; a DataLoader's own settings stand where those are the defaults.

    Raises:
        DataError: the source cannot be divided.
    """
    is_loader = isinstance(source, torch.utils.data.DataLoader)
    opened = open_source(
        source,
        collate_fn=collate_fn,
        num_workers=num_workers if num_workers or not is_loader else None,
        shuffle=None if is_loader and shuffle else shuffle,
    )
    core.outlet.notes(opened.notes)
    return opened


def make_feed(
    core: Core, opened: MapSource | IterableSource, *, drop_last: bool, first_step: int = 0
) -> Feed:
    """What a loop over steps reads from a source on this worker.

    Args:
        core: The run.
        opened: The source.
        drop_last: See `Run.steps`, as `first_step`.

    Raises:
        DataError: the source has too few examples for the plan.
        UsageError: `first_step` is given for an iterable source.
    """
    if core.membership.adapt_source is not None:
        opened = core.membership.adapt_source(core, opened)
    if not isinstance(opened, IterableSource):
        return MapFeed(
            opened,
            plan=core.plan,
            drop_last=drop_last,
            device=core.device,
            nodes=core.engine.held,
            timeout_s=core.settings.timeout_s,
        )
    if first_step:
        raise UsageError(
            f"first_step is {first_step} for an iterable source; only its own state says where it goes on. "
            f"Resume with --resume, or pass a map-style dataset."
        )
    return IterableFeed(
        opened,
        plan=core.plan,
        drop_last=drop_last,
        device=core.device,
        nodes=core.engine.held,
        group=core.group,
        settle=core.take_up_mapping,
    )
