"""What the processes that serve share. Importing it loads the web framework, so commands and workers do not.

in:  an application of FastAPI, a configuration of uvicorn
out: bodies that are strict, refusals that are sentences, connections that cannot be held open by silence

    add_refusals(app)               a body or a path that is refused is answered {"error": a sentence}
    Config(http=bounded())          silent connections end
    QuietServer(config).serve()     signals are the caller's
"""

from ._connections import bounded
from ._quiet import QuietServer
from ._refusals import Body, Refusal, add_refusals

__all__ = ["Body", "QuietServer", "Refusal", "add_refusals", "bounded"]
