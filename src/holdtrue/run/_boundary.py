"""A boundary, between two steps or two rounds of a prediction: there all workers enter the planned view that all know."""

from typing import TYPE_CHECKING

from ._agree import agree_on_entry

if TYPE_CHECKING:
    from ._core import Core


def enter_agreed(
    core: "Core",
    agreed: tuple[int, int] | None,
    *,
    place: str,
    call: int | None = None,
    steps: int | None = None,
) -> bool:
    """Enter the planned view that all workers know, if there is one; this worker ends here if it is not in it.

    Args:
        core: The run.
        agreed: Generation of the latest round and the newest planned view that all of its workers knew, from what
            each of them said in it: so all decide alike.
        place: See `agree_on_entry`, as `call` and `steps`.

    Returns:
        Whether there was one.

    Blocks:
        Until all members of the view are here, at most the group's time-out.
    """
    group = core.elastic
    if group is None:
        return False
    core.take_up_mapping()
    if agreed is None or agreed[1] <= agreed[0]:
        return False
    # A loss may have led to a newer view meanwhile; the others still meet here.
    if agreed[1] > group.generation and not group.enter_planned(agreed[1]):
        core.leave()
    core.take_up_mapping()
    agree_on_entry(core, place=place, call=call, steps=steps)
    return True
