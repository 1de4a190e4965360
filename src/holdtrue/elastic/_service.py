"""The controller over HTTP and WebSockets."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import FastAPI, Query, Security, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

from holdtrue.errors import GroupError
from holdtrue.service.web import Refusal, add_refusals
from holdtrue.wire import (
    FROM_HOST,
    FROM_WORKER,
    Hello,
    HostHello,
    Over,
    Progress,
    decode_control,
    encode_control,
    escape_text,
)

from ._controller import Controller, Outlet
from ._events import (
    Decision,
    Event,
    HostDropped,
    HostSaid,
    MappingAsked,
    Refuse,
    ResizeAsked,
    StopAsked,
    WorkerDropped,
    WorkerSaid,
)
from ._models import (
    Answer,
    DescriptionAnswer,
    EventAnswer,
    EventsAnswer,
    HealthAnswer,
    JobAnswer,
    MappingBody,
    ResizeBody,
    StopBody,
)
from ._status import describe_job

_log = logging.getLogger("holdtrue.elastic")

HELLO_TIMEOUT_S = 10.0
_SEND_TIMEOUT_S = 20.0
_POLICY, _TOO_SLOW = 1008, 1013
_REFUSALS: dict[int | str, dict[str, Any]] = {  # Any: as FastAPI has it
    status: {"model": Refusal, "description": text}
    for status, text in (
        (400, "No HTTP request that can be read"),
        (401, "No token, or one that is not known"),
        (403, "The token's scope, the Origin, or a missing X-Holdtrue header does not allow it"),
        (405, "The path has no such method"),
        (409, "The job as it is does not allow it"),
        (413, "The body is too long"),
        (421, "The Host header names another service"),
        (422, "The body or a parameter is not as described"),
    )
}


def build_app(
    controller: Controller,
    description: Mapping[str, Any],  # Any: JSON values
) -> FastAPI:
    """The application, without the guard that stands before it.

    Args:
        controller: The job's.
        description: What hosts that join are told of the job.
    """
    app = FastAPI(
        title="holdtrue controller",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        dependencies=[Security(HTTPBearer(auto_error=False, description="A token of the job"))],
        responses=_REFUSALS,
    )
    add_refusals(app)
    _add_reads(app, controller, description)
    _add_actions(app, controller)
    _add_sockets(app, controller)
    return app


def _add_reads(
    app: FastAPI,
    controller: Controller,
    description: Mapping[str, Any],  # Any: JSON values
) -> None:
    @app.get("/v1/health")
    async def read_health() -> HealthAnswer:
        """Whether the controller answers."""
        facts = describe_job(controller.state, {})
        return HealthAnswer(name=facts["name"], phase=facts["phase"])

    @app.get("/v1/job")
    async def read_job() -> JobAnswer:
        """Members, hosts, target and progress."""
        return JobAnswer.model_validate(describe_job(controller.state, controller.progress))

    @app.get("/v1/description")
    async def read_description() -> DescriptionAnswer:
        """What a host that joins runs: the launcher's words, passed on."""
        return DescriptionAnswer(description=dict(description))

    @app.get("/v1/events")
    async def read_events(
        after: Annotated[int, Query(ge=0, le=2**53)] = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 200
    ) -> EventsAnswer:
        """Events after a number, the oldest first."""
        later = [event for event in controller.events if event.number > after]
        oldest = controller.events[0].number if controller.events else controller.newest_event + 1
        return EventsAnswer(
            events=[
                EventAnswer(number=event.number, time_s=event.time_s, sentence=event.sentence)
                for event in later[:limit]
            ],
            newest=controller.newest_event,
            dropped=max(0, oldest - 1 - after),
        )


def _add_actions(app: FastAPI, controller: Controller) -> None:
    def ask(event: Event) -> Answer | JSONResponse:
        decision = controller.feed(event)
        refusal = _refusal_in(decision)
        if refusal is not None:
            return JSONResponse({"error": refusal}, status_code=409)
        state = decision.state
        return Answer(reason=decision.reason, generation=state.generation, target=state.target)

    @app.post("/v1/resize", response_model=Answer)
    async def resize(body: ResizeBody) -> Answer | JSONResponse:
        """Aim at another number of workers."""
        return ask(ResizeAsked(workers=body.workers))

    @app.post("/v1/stop", response_model=Answer)
    async def stop(body: StopBody) -> Answer | JSONResponse:
        """End the job at the next boundary, with a checkpoint."""
        return ask(StopAsked(reason=escape_text(body.reason)))

    @app.post("/v1/mapping", response_model=Answer)
    async def set_mapping(body: MappingBody) -> Answer | JSONResponse:
        """Use another mapping from the next boundary on."""
        return ask(MappingAsked(mapping=None if body.mapping is None else escape_text(body.mapping)))


def _refusal_in(decision: Decision) -> str | None:
    return next((action.sentence for action in decision.actions if isinstance(action, Refuse)), None)


def _add_sockets(app: FastAPI, controller: Controller) -> None:
    @app.websocket("/v1/worker")
    async def serve_worker(socket: WebSocket) -> None:
        await socket.accept()
        outlet = Outlet()
        try:
            hello = decode_control(await _first_text(socket), FROM_WORKER)
            if not isinstance(hello, Hello):
                raise GroupError("the first message of a worker is its hello.")
        except (GroupError, TimeoutError, WebSocketDisconnect) as error:
            await _end(socket, error)
            return
        decision = controller.feed(
            WorkerSaid(worker=hello.worker, message=hello),
            before_acting=lambda decision: (
                controller.take_worker(hello.worker, outlet) if _refusal_in(decision) is None else None
            ),
        )
        refusal = _refusal_in(decision)
        if refusal is not None:
            outlet.put(encode_control(_over_for(controller, refusal)))
            outlet.cut()
        await _serve(socket, outlet, lambda text: _hear_worker(controller, hello.worker, text))
        if controller.drop_worker(hello.worker, outlet):
            controller.feed(WorkerDropped(worker=hello.worker))

    @app.websocket("/v1/host")
    async def serve_host(socket: WebSocket) -> None:
        await socket.accept()
        outlet = Outlet()
        try:
            hello = decode_control(await _first_text(socket), FROM_HOST)
            if not isinstance(hello, HostHello):
                raise GroupError("the first message of a host is its hello.")
        except (GroupError, TimeoutError, WebSocketDisconnect) as error:
            await _end(socket, error)
            return
        name = hello.name
        controller.take_host(name, outlet)
        controller.feed(HostSaid(host=name, message=hello))
        await _serve(
            socket,
            outlet,
            lambda text: controller.feed(HostSaid(host=name, message=decode_control(text, FROM_HOST))),
        )
        if controller.drop_host(name, outlet):
            controller.feed(HostDropped(host=name))


def _over_for(controller: Controller, refusal: str) -> Over:
    state = controller.state
    if state.phase == "over":
        return Over(how=state.how_over or "failed", reason=refusal)
    return Over(how="expelled", reason=refusal)


def _hear_worker(controller: Controller, number: int, text: str) -> None:
    message = decode_control(text, FROM_WORKER)
    if isinstance(message, Hello):
        raise GroupError(f"worker {number} said hello twice on one connection; once is enough.")
    if isinstance(message, Progress):
        controller.progress = message.facts
    else:
        controller.feed(WorkerSaid(worker=number, message=message))


async def _first_text(socket: WebSocket) -> str:
    return await asyncio.wait_for(_next_text(socket), HELLO_TIMEOUT_S)


async def _next_text(socket: WebSocket) -> str:
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    text = message.get("text")
    if text is None:
        raise GroupError("control messages are texts, and this one is not.")
    return str(text)


async def _serve(
    socket: WebSocket, outlet: Outlet, hear: Any
) -> None:  # Any: called with a text, answer unused
    """Send and hear until either side ends."""
    sending = asyncio.create_task(_send_all(socket, outlet))
    hearing = asyncio.create_task(_hear_all(socket, hear))
    done, pending = await asyncio.wait((sending, hearing), return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    error = next((task.exception() for task in done if task.exception() is not None), None)
    await _end(socket, error)


async def _hear_all(socket: WebSocket, hear: Any) -> None:  # Any: as above
    while True:
        hear(await _next_text(socket))


async def _send_all(socket: WebSocket, outlet: Outlet) -> None:
    while (text := await outlet.take()) is not None:
        await asyncio.wait_for(socket.send_text(text), _SEND_TIMEOUT_S)


async def _end(socket: WebSocket, error: BaseException | None) -> None:
    """Close a connection, and say in the log why, if it was not the other side."""
    if isinstance(error, WebSocketDisconnect):
        return
    if error is not None and not isinstance(error, GroupError | TimeoutError | OSError | RuntimeError):
        _log.error("a connection ended by a bug: %r", error, exc_info=error)
    elif error is not None:
        _log.warning("a connection was ended: %s", escape_text(str(error) or type(error).__name__))
    code = 1000 if error is None else (_TOO_SLOW if isinstance(error, TimeoutError) else _POLICY)
    try:
        await asyncio.wait_for(socket.close(code), 1.0)
    except (RuntimeError, OSError, TimeoutError, WebSocketDisconnect):
        return  # it is closed already
