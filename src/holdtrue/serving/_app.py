"""The HTTP side: requests in, answers out."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from holdtrue.errors import DataError, GroupError, UsageError, WaitTimeoutError
from holdtrue.service.web import Body, add_refusals
from holdtrue.wire import escape_text

from ._examples import read_instance, write_output
from ._pool import ExampleFailedError, Output, WorkerPool
from ._settings import MOST_WORKERS, ServeSettings

MOST_INSTANCES = 256
"""Examples of one request."""


class ResizeBody(Body):
    """The workers that the server should have."""

    workers: Annotated[int, Field(ge=1, le=MOST_WORKERS)]


class StopBody(Body):
    """Why the server should end."""

    reason: Annotated[str, Field(max_length=1000)] = "asked by the user"


def build_app(
    settings: ServeSettings, pool: WorkerPool, *, name: str, stop: Callable[[str], None]
) -> FastAPI:
    """The application, without the gate that stands before it.

    Args:
        settings: The server's.
        pool: Its workers.
        name: How `holdtrue status` calls it.
        stop: Ends the server in order.
    """
    app = FastAPI(title="holdtrue serve", version="1", docs_url=None, redoc_url=None)
    add_refusals(app)
    _add_predict(app, settings, pool)
    _add_reads(app, settings, pool, name)
    _add_actions(app, pool, stop)
    return app


def _sentence(status: int, text: str) -> JSONResponse:
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse({"error": escape_text(text)}, status_code=status, headers=headers)


def _add_predict(app: FastAPI, settings: ServeSettings, pool: WorkerPool) -> None:
    @app.post(
        "/v1/predict",
        response_model=None,
        responses={
            200: {"description": '`{"predictions": [...]}`, one for each instance'},
            400: {"description": "The request is no JSON, or an instance does not fit the model"},
            422: {"description": "The model fails on an instance"},
            429: {"description": "Too much is waiting; ask again"},
            503: {"description": "The server is ending, or workers died of this request"},
            504: {"description": "There was no answer in time"},
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["instances"],
                            "additionalProperties": False,
                            "properties": {
                                "instances": {
                                    "type": "array",
                                    "minItems": 1,
                                    "maxItems": MOST_INSTANCES,
                                    "items": {},
                                }
                            },
                        }
                    }
                },
            }
        },
    )
    async def predict(request: Request) -> Response:
        """Answers of the model, in the order of the instances."""
        try:
            body = await _body_of(request, settings.most_body_bytes)
        except ClientDisconnect:
            return Response(status_code=400)
        started_s = time.perf_counter()
        try:
            assert pool.spec is not None
            values = read_request(body)
            examples = [read_instance(v, pool.spec, f"instances[{i}]") for i, v in enumerate(values)]
            if pool.waiting + len(examples) > settings.queue + MOST_INSTANCES:
                return _sentence(
                    429, f"{pool.waiting} examples wait and {len(examples)} more do not fit. Ask again."
                )
            outputs = await _compute_all(pool, examples)
        except ExampleFailedError as error:
            return _sentence(422, str(error))
        except DataError as error:
            return _sentence(400, str(error))
        except WaitTimeoutError as error:
            return _sentence(504, str(error))
        except GroupError as error:
            return _sentence(503, str(error))
        pool.metrics.request_seconds.observe(time.perf_counter() - started_s)
        answer = {"predictions": [write_prediction(output) for output in outputs]}
        return Response(json.dumps(answer, allow_nan=False), media_type="application/json")


async def _body_of(request: Request, most_bytes: int) -> bytes:
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > most_bytes:
            raise HTTPException(413, f"the body has more than {most_bytes} bytes")
    return bytes(found)


async def _compute_all(
    pool: WorkerPool, examples: list[Any]
) -> list[Output]:  # Any: texts, or arrays by name
    if len(examples) == 1:
        return [await pool.compute(examples[0])]
    tasks = [asyncio.ensure_future(pool.compute(example)) for example in examples]
    done = await asyncio.gather(*tasks, return_exceptions=True)
    outputs: list[Output] = []
    for i, found in enumerate(done):
        if isinstance(found, ExampleFailedError):
            raise ExampleFailedError(f"instances[{i}]: {found}")
        if isinstance(found, BaseException):
            raise found
        outputs.append(found)
    return outputs


def read_request(body: bytes) -> list[Any]:  # Any: JSON values
    """The instances of a request.

    Raises:
        DataError: it is no such request.

    >>> read_request(b'{"instances": [1]}')
    [1]
    """
    try:
        values = from_json(body, allow_inf_nan=False)  # the same numbers as json.loads, faster
    except ValueError as error:
        raise DataError(
            f'the body is no JSON ({str(error)[:100]}); it is an object such as {{"instances": [[0.5, 1.0]]}}. Send one.'
        ) from None
    if (
        not isinstance(values, dict)
        or set(values) != {"instances"}
        or not isinstance(values["instances"], list)
    ):
        raise DataError(
            'the body is JSON of another form; it is an object with the one key "instances", a list of examples. Send one.'
        )
    count = len(values["instances"])
    if not 1 <= count <= MOST_INSTANCES:
        raise DataError(
            f"instances has {count} examples; a request has 1 to {MOST_INSTANCES}. Send such a number."
        )
    return list(values["instances"])


def write_prediction(output: Output) -> Any:  # Any: JSON values
    """The outputs of one example: one alone as it is, several by name."""
    if list(output) == ["output"]:
        return write_output(output["output"])
    return {name: write_output(array) for name, array in output.items()}


def _add_reads(app: FastAPI, settings: ServeSettings, pool: WorkerPool, name: str) -> None:
    @app.get("/v1/health")
    async def read_health() -> dict[str, str]:
        """Whether the server answers."""
        return {"name": name, "phase": "running"}

    @app.get("/v1/ready", response_model=None)
    async def read_ready() -> JSONResponse:
        """Whether a worker takes passes: 200 if so, 503 if not."""
        workers = [w["worker"] for w in pool.workers() if w["rank"] is not None]
        if workers:
            return JSONResponse({"workers": len(workers)})
        return _sentence(503, "no worker takes passes at the moment; one is being started. Ask again.")

    @app.get("/v1/model")
    async def read_model() -> dict[str, Any]:  # Any: JSON values
        """What the model takes, and how passes are made."""
        return {
            "model": settings.model,
            "example": pool.spec.to_dict() if pool.spec is not None else None,
            "numerics": settings.numerics,
            "virtual_nodes": settings.virtual_nodes,
            "passes": pool.sentence,
        }

    @app.get("/v1/job")
    async def read_job() -> dict[str, Any]:  # Any: JSON values
        """Workers and mapping, as `holdtrue status` reads them."""
        return {
            "name": name,
            "phase": "running",
            "reason": "",
            "generation": pool.generation,
            "target": pool.target,
            "most": MOST_WORKERS,
            "mapping": pool.mapping,
            "cause": pool.cause,
            "step": 0,
            "restarts_left": 0,
            "unplaced": 0,
            "workers": [
                w
                | {
                    "address": None,
                    "host": None,
                    "generation": pool.generation,
                    "step": 0,
                    "is_connected": True,
                }
                for w in pool.workers()
            ],
            "hosts": [],
            "progress": {"serves": settings.model, "waiting": pool.waiting, "passes": pool.sentence},
        }

    @app.get("/metrics", response_model=None)
    async def read_metrics() -> Response:
        """Counters, as Prometheus reads them."""
        return Response(pool.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_actions(app: FastAPI, pool: WorkerPool, stop: Callable[[str], None]) -> None:
    @app.post("/v1/resize", response_model=None)
    async def resize(body: ResizeBody) -> JSONResponse:
        """Aim at another number of workers."""
        try:
            reason = pool.resize(body.workers)
        except UsageError as error:
            return _sentence(409, str(error))
        return JSONResponse({"reason": reason, "generation": pool.generation, "target": pool.target})

    @app.post("/v1/stop", response_model=None)
    async def stop_server(body: StopBody) -> JSONResponse:
        """Answer those who are inside, and end."""
        stop(escape_text(body.reason))
        return JSONResponse(
            {
                "reason": "The server answers those who are inside, and ends.",
                "generation": pool.generation,
                "target": 0,
            }
        )
