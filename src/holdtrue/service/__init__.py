"""A small service on loopback that answers nobody without a token: what the controller and the scheduler have in common.

in:  an application (ASGI), tokens, a listening socket
out: answers to requests that name the right Host, come from no foreign page, and carry a token of the right scope

    serve_app(app, tokens=..., listener=...)    until SIGTERM; bounds connections, headers and bodies
    Caller(url=..., token=..., words=...)       a command's side: one request, one answer, or a sentence

Importing loads no web framework; `serve_app` does.
"""

from ._caller import Caller, CallerWords
from ._guard import App, Guard, Verdict, judge_request, refuse
from ._serve import hosts_of, serve_app
from ._tokens import SCOPES, Tokens, make_tokens, read_tokens

__all__ = [
    "SCOPES",
    "App",
    "Caller",
    "CallerWords",
    "Guard",
    "Tokens",
    "Verdict",
    "hosts_of",
    "judge_request",
    "make_tokens",
    "read_tokens",
    "refuse",
    "serve_app",
]
