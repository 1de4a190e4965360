"""What a user asked for, noted or refused. Pure."""

from collections import Counter

from holdtrue.errors import MappingError
from holdtrue.mapping import read_mapping

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
        turn.keep_places()


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
    misfit = misfit_of(mapping) if mapping is not None else ""
    if _is_ending(turn):
        _refuse(turn, f"the job is ending ({state.stop_reason or state.over_reason}) and changes no more.")
    elif state.phase != "running" or parts != len(state.members):
        _refuse(
            turn,
            f"the mapping {mapping} is for {parts} workers and the job has {len(state.members)} members now; "
            f"a mapping has one part for each member, parted by '/'. Ask again with such a mapping.",
        )
    elif misfit:
        _refuse(turn, misfit)
    else:
        turn.note(f"the mapping {mapping if mapping is not None else 'even'} was asked for")
        turn.set(mapping=mapping, mapping_reason="")


def misfit_of(mapping: str) -> str:
    """Why a text is no mapping of any number of virtual nodes, as a sentence; empty if it is one.

    >>> misfit_of("0-3,6/4-5"), misfit_of("0-3/3-7").split(";")[0]
    ('', 'the mapping 0-3/3-7 names virtual node 3 twice')
    """
    try:
        held = [virtual_node for ids in read_mapping(mapping) for virtual_node in ids]
    except MappingError as error:
        return str(error)
    seen = Counter(held)
    twice = next((v for v, count in seen.items() if count > 1), None)
    missing = next((v for v in range(len(held)) if v not in seen), None)
    rule = "it has each id from 0 on once. Ask again with such a mapping."
    if twice is not None:
        return f"the mapping {mapping} names virtual node {twice} twice; {rule}"
    return "" if missing is None else f"the mapping {mapping} leaves out virtual node {missing}; {rule}"


def _is_ending(turn: Turn) -> bool:
    return turn.state.phase == "over" or turn.state.stop_reason is not None


def _refuse(turn: Turn, sentence: str) -> None:
    turn.actions.append(Refuse(sentence=sentence))
