"""Who belongs to a job, and how that changes while it runs. Knows nothing of gradients.

in:  events (a worker says hello, is ready, lost another, died; a user asks for a size), the time
out: views, one for each generation, which the workers enter

    decide(state, event, now) -> state, messages, a sentence     pure; the controller serves it (`python -m holdtrue.elastic`)
    ControllerAgent    a worker's line to the controller         HostLink    a host's      ControlClient    a command's

Importing loads neither torch nor a web framework; a link loads `websockets` when it connects.
"""

from holdtrue.service import SCOPES, Tokens, read_tokens

from ._agent import Agent
from ._client import ControllerAgent
from ._control_client import ControlClient
from ._deadlines import next_deadline_s
from ._events import (
    Action,
    Decision,
    Event,
    HostDropped,
    HostSaid,
    MappingAsked,
    Refuse,
    ResizeAsked,
    StopAsked,
    Tell,
    TellHost,
    Ticked,
    WorkerDropped,
    WorkerSaid,
)
from ._host_link import HostLink
from ._membership import decide, replay
from ._state import MOST_WORKERS, JobSettings, State, first_state
from ._translate import view_from_text, view_to_text
from ._view import Member, View

__all__ = [
    "MOST_WORKERS",
    "SCOPES",
    "Action",
    "Agent",
    "ControlClient",
    "ControllerAgent",
    "Decision",
    "Event",
    "HostDropped",
    "HostLink",
    "HostSaid",
    "JobSettings",
    "MappingAsked",
    "Member",
    "Refuse",
    "ResizeAsked",
    "State",
    "StopAsked",
    "Tell",
    "TellHost",
    "Ticked",
    "Tokens",
    "View",
    "WorkerDropped",
    "WorkerSaid",
    "decide",
    "first_state",
    "next_deadline_s",
    "read_tokens",
    "replay",
    "view_from_text",
    "view_to_text",
]
