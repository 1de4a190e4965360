"""One value of a trace, checked, with its place in the message."""

from collections.abc import Iterable

from holdtrue.errors import UsageError

from ._positions import Node


def refuse(name: str, place: str, what: str, rule: str) -> UsageError:
    """Error that points at one place of a trace."""
    return UsageError(f"{name}, {place}: {what}; {rule}. Correct that place, or see docs/guide/simulator.md.")


def number_at(
    name: str, place: str, field: str, value: object, *, least: float, whole: bool = False
) -> float:
    """`value` as a number that is at least `least` (above it, for 0 and parts).

    Raises:
        UsageError: it is not.
    """
    rule = f"{field} must be {'a whole number' if whole else 'a number'}, {least:g} or more"
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = float(value)
        if whole and number != int(number):
            raise ValueError
    except (ValueError, OverflowError):
        raise refuse(name, place, f"{field} is {value!r}", rule) from None
    if not least <= number < float("inf"):
        raise refuse(name, place, f"{field} is {value!r}", rule)
    return number


def object_at(name: str, node: Node, required: Iterable[str], optional: Iterable[str]) -> dict[str, Node]:
    """Members of an object whose keys are all known.

    Raises:
        UsageError: not an object, an unknown key, or a key that is missing.
    """
    if not isinstance(node.value, dict):
        raise refuse(name, node.place, f"found {node.plain()!r}"[:80], "a job must be an object")
    known = {*required, *optional}
    for key, member in node.value.items():
        if key not in known:
            raise refuse(
                name, member.place, f"unknown key {key!r}", f"the keys are {', '.join(sorted(known))}"
            )
    for key in required:
        if key not in node.value:
            raise refuse(name, node.place, f"the job has no {key!r}", f"required are {', '.join(required)}")
    return node.value


def number_in(
    name: str, members: dict[str, Node], key: str, default: float, *, least: float, whole: bool = False
) -> float:
    """Number under `key`, or the default if it is absent."""
    if key not in members:
        return default
    node = members[key]
    return number_at(
        name,
        node.place,
        key,
        node.value if not isinstance(node.value, dict | list) else "...",
        least=least,
        whole=whole,
    )


def text_in(name: str, members: dict[str, Node], key: str, default: str) -> str:
    """Text under `key`, or the default if it is absent; numbers are taken as their digits."""
    if key not in members:
        return default
    value = members[key].value
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise refuse(name, members[key].place, f"{key} is {members[key].plain()!r}", f"{key} must be text")
    return str(value)
