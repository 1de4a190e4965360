"""The user's Run: plan, engine and membership brought together.

run = init(...) -> run.prepare(...) -> for step in run.steps(...): ... -> run.evaluate, run.save
"""

from ._frames import user_frame
from ._join import Membership, joined_as
from ._outputs import Outputs
from ._run import Run, init
from ._settings import Settings, resolve_settings
from ._step import Step

__all__ = [
    "Membership",
    "Outputs",
    "Run",
    "Settings",
    "Step",
    "init",
    "joined_as",
    "resolve_settings",
    "user_frame",
]
