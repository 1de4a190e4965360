"""Several workers as threads of this process that take turns: the whole run, without processes."""

import random
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

from holdtrue.mapping import Mapping as VirtualNodeMapping
from holdtrue.mapping import Tree
from holdtrue.reduce import AloneGroup, InProcessJob
from holdtrue.run import Membership, joined_as

T = TypeVar("T")


def save_globals() -> Any:  # Any: opaque to its keeper
    """The states of torch's, Python's and NumPy's random streams, for `restore_globals`."""
    bits = np.random.get_bit_generator()  # type: ignore[attr-defined]  # absent from the stubs
    # The second of a pair of normal samples is not in the bit generator, which drops it when it is exchanged.
    kept = np.random.get_state(legacy=False)
    return torch.get_rng_state(), random.getstate(), bits, bits.state, (kept["has_gauss"], kept["gauss"])


def restore_globals(saved: Any) -> None:  # Any: from save_globals
    """Put the random streams of this process back to where they were at `save_globals`."""
    torch_state, python_state, bits, bits_state, (has_gauss, gauss) = saved
    torch.set_rng_state(torch_state)
    random.setstate(python_state)
    np.random.set_bit_generator(bits)  # type: ignore[attr-defined]  # absent from the stubs
    bits.state = bits_state
    np.random.set_state(dict(np.random.get_state(legacy=False)) | {"has_gauss": has_gauss, "gauss": gauss})


def run_in_process(
    main: Callable[[], T],
    *,
    workers: int = 1,
    mapping: str | None = None,
    order: Callable[[VirtualNodeMapping], Tree] | None = None,
    timeout_s: float = 60.0,
) -> list[T]:
    """What `main` returns on each worker, by rank.

    Args:
        main: Calls `holdtrue.init` and trains; runs once per worker, in a thread of its own.
        workers: Number of workers; taken from `mapping` if that is given.
        mapping: Text of a mapping, such as `0-3/4-7`; the even one otherwise.
        order: Another order of additions, for negative controls.
        timeout_s: Bound of every wait for another worker, in seconds.

    Raises:
        Exception: what `main` raised on the worker that failed first.
    """
    world_size = len(mapping.split("/")) if mapping else workers
    job = InProcessJob(
        world_size, timeout_s=timeout_s, save_globals=save_globals, restore_globals=restore_globals
    )
    results: dict[int, T] = {}
    errors: list[BaseException] = []
    start = save_globals()

    def work(rank: int) -> None:
        membership = Membership(
            rank=rank,
            world_size=world_size,
            device="cpu",
            mapping=mapping,
            order=order,
            in_process=True,
            connect=lambda device, settings: job.group(rank) if world_size > 1 else AloneGroup(device),
        )
        try:
            with job.running(rank), joined_as(membership):
                torch.set_rng_state(start[0])  # as fresh processes, all workers begin with the same streams
                random.setstate(start[1])
                np.random.set_bit_generator(np.random.MT19937(0))  # type: ignore[attr-defined]  # absent from the stubs
                results[rank] = main()
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            errors.append(error)

    threads = [
        threading.Thread(target=work, args=(rank,), name=f"worker-{rank}") for rank in range(world_size)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    restore_globals(start)
    if errors:
        raise errors[0]
    return [results[rank] for rank in range(world_size)]
