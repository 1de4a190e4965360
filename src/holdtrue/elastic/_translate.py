"""Views as messages and back. Pure."""

from holdtrue.wire import MemberText, ViewText

from ._view import Member, View


def view_to_text(view: View) -> ViewText:
    """The view as a part of a message."""
    return ViewText(
        generation=view.generation,
        members=tuple(
            MemberText(worker=m.worker, host=m.host, port=m.port, device=m.device) for m in view.members
        ),
        joiners=view.joiners,
        is_planned=view.is_planned,
        mapping=view.mapping,
        cause=view.cause,
        lost=view.lost,
    )


def view_from_text(text: ViewText) -> View:
    """The view that a message holds."""
    return View(
        generation=text.generation,
        members=tuple(
            Member(worker=m.worker, host=m.host, port=m.port, device=m.device) for m in text.members
        ),
        joiners=text.joiners,
        is_planned=text.is_planned,
        mapping=text.mapping,
        cause=text.cause,
        lost=text.lost,
    )
