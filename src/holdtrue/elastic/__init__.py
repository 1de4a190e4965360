"""Who belongs to a job, and how that changes while it runs. Knows nothing of gradients.

in:  events (a worker says hello, is ready, lost another, died; a user asks for a size), the time
out: views, one for each generation, which the workers enter
"""

from ._agent import Agent
from ._view import Member, View

__all__ = ["Agent", "Member", "View"]
