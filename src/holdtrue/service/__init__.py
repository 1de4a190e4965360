"""A small service on loopback that answers nobody without a token: what the controller and the scheduler have in common.

in:  an application (ASGI), tokens, a listening socket
out: answers to requests that name the right Host, come from no foreign page, and carry a token of the right scope

    serve_app(app, tokens=..., listener=...)    until SIGTERM; bounds connections, headers and bodies
    Caller(url=..., token=..., words=...)       a command's side: one request, one answer, or a sentence

Importing loads no web framework; `serve_app` does.
"""

from ._caller import Caller, CallerWords
from ._guard import App, Guard, Verdict, judge_request, refuse
from ._listen import listen, url_at, url_of
from ._serve import hosts_of, raise_file_limit, serve_app
from ._tokens import SCOPES, Tokens, make_tokens, read_tokens, write_private

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
    "listen",
    "make_tokens",
    "raise_file_limit",
    "read_tokens",
    "refuse",
    "serve_app",
    "url_at",
    "url_of",
    "write_private",
]
