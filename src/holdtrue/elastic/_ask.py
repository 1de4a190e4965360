"""What a user asked for, noted or refused. Pure."""

from ._events import Refuse
from ._state import MOST_WORKERS
from ._turn import Turn


def ask_resize(turn: Turn, workers: int) -> None:
    """Aim at another number of workers; the newest wish counts."""
    state = turn.state
    most = state.settings.most if state.settings.most is not None else MOST_WORKERS
    if not 1 <= workers <= most:
        _refuse(
            turn, f"{workers} workers are asked for; this job has from 1 to {most}. Ask for such a number."
        )
    elif _is_ending(turn):
        _refuse(turn, f"the job is ending ({state.stop_reason or state.over_reason}) and changes no more.")
    elif workers == state.target:
        turn.note(
            f"a resize to {workers} workers was asked for, which the job has or is on its way to: nothing to do"
        )
    else:
        turn.note(f"a resize from {state.target} to {workers} workers was asked for")
        turn.set(target=workers)


def ask_stop(turn: Turn, reason: str) -> None:
    """End the job at the next boundary, with a checkpoint."""
    if turn.state.phase == "over":
        _refuse(turn, f"the job is over already: {turn.state.over_reason}")
    elif turn.state.stop_reason is None:
        turn.stop(reason)


def ask_mapping(turn: Turn, mapping: str | None) -> None:
    """Use another mapping from the next boundary on."""
    state = turn.state
    parts = len(mapping.split("/")) if mapping is not None else len(state.members)
    if _is_ending(turn):
        _refuse(turn, f"the job is ending ({state.stop_reason or state.over_reason}) and changes no more.")
    elif state.phase != "running" or parts != len(state.members):
        _refuse(
            turn,
            f"the mapping {mapping} is for {parts} workers and the job has {len(state.members)} members now; "
            f"a mapping has one part for each member, parted by '/'. Ask again with such a mapping.",
        )
    else:
        turn.note(f"the mapping {mapping if mapping is not None else 'even'} was asked for")
        turn.set(mapping=mapping, mapping_reason="")


def _is_ending(turn: Turn) -> bool:
    return turn.state.phase == "over" or turn.state.stop_reason is not None


def _refuse(turn: Turn, sentence: str) -> None:
    turn.actions.append(Refuse(sentence=sentence))
