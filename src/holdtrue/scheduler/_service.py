"""The scheduler over HTTP."""

import os
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

from holdtrue.cluster import Grant, record_to_values
from holdtrue.errors import UsageError
from holdtrue.service.web import Refusal, add_refusals
from holdtrue.wire import escape_text

from ._models import (
    Answer,
    CancelBody,
    HealthAnswer,
    JobAnswer,
    LogAnswer,
    PolicyBody,
    QueueAnswer,
    StopAnswer,
    StopBody,
    SubmitAnswer,
    SubmitBody,
)
from ._pages import MOST_JOBS, Which, count_states, page_of, shorten_ending
from ._records import JobRecord, Place
from ._request import request_from_values
from ._scheduler import Scheduler
from ._store import Store

_REFUSALS: dict[int | str, dict[str, Any]] = {  # Any: as FastAPI has it
    status: {"model": Refusal} for status in (400, 401, 403, 405, 409, 413, 421, 422)
}


def build_app(scheduler: Scheduler, store: Store, place: Place) -> FastAPI:
    """The application, without the guard that stands before it."""
    app = FastAPI(
        title="holdtrue scheduler",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        dependencies=[Security(HTTPBearer(auto_error=False, description="A token of the scheduler"))],
        responses=_REFUSALS,
    )
    add_refusals(app)
    _add_errors(app)
    _add_reads(app, scheduler, store, place)
    _add_actions(app, scheduler)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(UsageError)
    async def refuse(request: Request, error: UsageError) -> JSONResponse:
        return JSONResponse({"error": escape_text(str(error))}, status_code=409)


def _add_reads(app: FastAPI, scheduler: Scheduler, store: Store, place: Place) -> None:
    @app.get("/v1/health")
    async def read_health() -> HealthAnswer:
        """Whether the scheduler answers."""
        return HealthAnswer(pid=os.getpid(), policy=scheduler.schedule.policy)

    @app.get("/v1/queue")
    async def read_queue(
        which: Which = "all",
        after: Annotated[int, Query(ge=0, le=2**53)] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_JOBS)] = MOST_JOBS,
    ) -> QueueAnswer:
        """Devices, policy, how many jobs there are, and a page of them."""
        schedule, jobs = scheduler.schedule, scheduler.jobs
        page = page_of(jobs.values(), which=which, after=after, limit=limit)
        grants = {view.job.id: view.grant for view in schedule.views}
        return QueueAnswer(
            policy=schedule.policy,
            devices=dict(schedule.cluster.devices),
            queues={queue.name: queue.guaranteed for queue in schedule.cluster.queues},
            reason=scheduler.reason,
            trouble=escape_text(scheduler.trouble),
            epoch_s=scheduler.epoch_s,
            newest=scheduler.newest,
            counts=count_states(jobs.values()),
            jobs=[_describe(scheduler, record, grants.get(record.id), place) for record in page.jobs],
            next=page.next,
        )

    @app.get("/v1/log")
    async def read_log(
        after: Annotated[int, Query(ge=0, le=2**53)] = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 200
    ) -> LogAnswer:
        """Records of the log after a number, the oldest first."""
        records = store.log(after, limit)
        return LogAnswer(records=[record_to_values(record) for record in records], newest=scheduler.newest)


def _add_actions(app: FastAPI, scheduler: Scheduler) -> None:
    @app.post("/v1/submit")
    async def submit(body: SubmitBody) -> SubmitAnswer:
        """Take jobs, all of them or none."""
        requests = [request_from_values(values) for values in body.jobs]
        return SubmitAnswer(names=[record.request.name for record in scheduler.submit(requests)])

    @app.post("/v1/cancel")
    async def cancel(body: CancelBody) -> Answer:
        """End a job."""
        return Answer(reason=scheduler.cancel(body.name))

    @app.post("/v1/policy")
    async def choose_policy(body: PolicyBody) -> Answer:
        """Decide by another policy from now on."""
        return Answer(reason=scheduler.choose_policy(body.policy))

    @app.post("/v1/stop")
    async def stop(body: StopBody) -> StopAnswer:
        """End the scheduler."""
        return StopAnswer(running=scheduler.close(ends_jobs=body.ends_jobs))


def _describe(scheduler: Scheduler, record: JobRecord, grant: Grant | None, place: Place) -> JobAnswer:
    facts = scheduler.facts_of(record.number)
    progress = (facts or {}).get("progress", {})
    request = record.request
    return JobAnswer(
        number=record.number,
        name=request.name,
        state=record.state,
        devices=grant.devices if grant is not None else 0,
        workers=len(facts["workers"]) if facts is not None else None,
        min_devices=request.min_devices,
        max_devices=request.max_devices,
        percent=request.percent,
        weight=request.weight,
        queue=request.queue,
        step=progress.get("step"),
        total=progress.get("total"),
        attempt=record.attempt,
        crashes=record.crashes,
        purpose=record.purpose,
        submitted_s=record.submitted_s,
        started_s=record.started_s,
        ended_s=record.ended_s,
        exit_code=record.exit_code,
        ending=shorten_ending(record.ending),
        run_dir=str(place.run_dir(record)),
        output=str(place.attempt(record) / "output.log"),
    )
