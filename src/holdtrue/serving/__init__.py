"""Serving a model over HTTP, on virtual nodes: a request's answer has the same bits whatever it is batched with.

in:  requests, as JSON                                              out: answers, as JSON
     request -> queue -> a free virtual node takes up to a pass -> its worker computes it -> answer

    Batcher       which requests go into which pass, where: pure, no I/O
    WorkerPool    worker processes, and what each computes: deaths, resizes, bounded waits
    serve         the HTTP service in this process (FastAPI, uvicorn); loads the web framework when it is called

No torch here: workers have it (`python -m holdtrue.inference serve-worker`).
"""

from ._batcher import Assignment, Batcher, Lost
from ._examples import ArraySpec, ExampleSpec, read_instance
from ._frames import DTYPES, Frame, pack_frame, read_frame, take_frame, unpack_frame, write_frame
from ._model_path import check_model_path
from ._settings import ServeSettings
from ._start import Place, serve

__all__ = [
    "DTYPES",
    "ArraySpec",
    "Assignment",
    "Batcher",
    "ExampleSpec",
    "Frame",
    "Lost",
    "Place",
    "ServeSettings",
    "check_model_path",
    "pack_frame",
    "read_frame",
    "read_instance",
    "serve",
    "take_frame",
    "unpack_frame",
    "write_frame",
]
