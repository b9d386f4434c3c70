"""The service: models by name, one video in, the answer of `clipmill predict` out.

Routes and what they tell; the work is the desk's. Knows neither registry nor sockets.
"""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import ClientDisconnect

from clipmill import __version__, infer
from clipmill.errors import ClipmillError, UsageError
from clipmill.serve.allowed import Allowed
from clipmill.serve.desk import Desk, unless_left
from clipmill.serve.page import page_response
from clipmill.serve.problems import (
    CLIENT_LEFT,
    FAILED,
    Refusal,
    body_of,
    described,
    install,
    status_of,
)
from clipmill.serve.schemas import (
    BATCH_FORM,
    EXAMPLES,
    FORM,
    Answer,
    Card,
    Health,
    Models,
    Readiness,
    Several,
)
from clipmill.serve.shelf import Served, Shelf, Source
from clipmill.serve.upload import KIND, Upload

log = logging.getLogger("clipmill.serve")

WRITER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
REFUSED = (400, 401, 404, 408, 413, 415, 422, 429, 500, 503)


@dataclass(frozen=True)
class Service:
    """All that the routes share."""

    shelf: Shelf
    desk: Desk
    token: str | None

    @property
    def allowed(self) -> Allowed:
        """The limits of the server."""
        return self.desk.allowed

    def warm(self) -> None:
        """Have every decoder load what the models need, before the first request."""
        for served in self.shelf.ready().values():
            self.desk.decoders.warm(served.looks)

    def close(self) -> None:
        """End what works for it."""
        self.shelf.close()
        self.desk.close()


bearer = HTTPBearer(auto_error=False, description="the token that the server was started with")
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
EachFrame = Annotated[
    bool, Query(description="beside a timeline, the probabilities of every moment")
]


def service_of(request: Request) -> Service:
    """The service behind a request."""
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(service_of)]


async def authorised(service: Here, given: Bearer) -> None:
    """Refuse who does not bring the token, before anything of the body is read."""
    if service.token is None:
        return
    if given is None or not hmac.compare_digest(given.credentials.encode(), service.token.encode()):
        raise Refusal(
            401,
            "no token" if given is None else "a wrong token",
            "the header `Authorization: Bearer TOKEN`",
            "use the token that the server was started with",
            {"WWW-Authenticate": "Bearer"},
        )


public = APIRouter()
closed = APIRouter(dependencies=[Depends(authorised)])


@public.head("/", include_in_schema=False)
@public.get("/", include_in_schema=False)
async def look() -> HTMLResponse:
    """The page that answers a dropped video."""
    return page_response()


@public.head("/healthz", include_in_schema=False)
@public.get("/healthz", summary="Whether the server lives")
async def health() -> Health:
    """Answer as long as the event loop turns."""
    return Health(status="alive")


@public.head("/readyz", include_in_schema=False)
@public.get(
    "/readyz", summary="Whether there are models to answer", responses={503: {"model": Readiness}}
)
async def readiness(service: Here, response: Response) -> Readiness:
    """Say of each model whether it is ready; those that are serve, whatever the others do."""
    states = service.shelf.states()
    failed = sum(state == "failed" for state in states.values())
    response.status_code = 503 if failed == len(states) else 200
    status = "ready" if not failed else "not ready" if failed == len(states) else "degraded"
    return Readiness(status=status, models=states)


@closed.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **described(401)},
)
async def metrics(service: Here) -> Response:
    """Tell requests, seconds, queues and models."""
    ready = service.shelf.ready()
    versions = {name: served.version or "" for name, served in ready.items()}
    failed = set(service.shelf.names) - set(ready)
    text = service.desk.metrics.text(versions, failed)
    return Response(text, media_type=service.desk.metrics.media_type)


@closed.get("/v1/models", summary="Models, their versions and figures", responses=described(401))
async def models(service: Here) -> Models:
    """List what can be asked."""
    shelf, allowed = service.shelf, service.allowed
    states, ready, faults = shelf.states(), shelf.ready(), shelf.faults()
    cards = [
        card(name, states[name], faults.get(name, ""), ready.get(name)) for name in shelf.names
    ]
    return Models(
        models=cards, max_bytes=allowed.max_bytes, max_seconds=allowed.bounds.seconds,
        batch_videos=allowed.batch_videos,
    )  # fmt: skip


def card(name: str, state: str, fault: str, served: Served | None) -> Card:
    """Tell what a model is."""
    predict = f"/v1/models/{quote(name)}/predict"
    if served is None:
        return Card(name=name, version=None, state=state, fault=fault, predict=predict)
    model = served.model
    return Card(
        name=name, version=served.version, state=state, fault=fault, predict=predict,
        plugin=type(model.plugin).name, family=type(model.plugin).family,
        classes=list(model.classes), protocol=infer.protocol(model.recipe), figures=model.figures,
        takes_pictures=served.looks.is_still(), lineage=dict(served.lineage),
    )  # fmt: skip


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {KIND: {"schema": schema}}}}


@closed.post(
    "/v1/models/{name}/predict",
    summary="Answer one video",
    response_model=Answer,
    responses={
        200: {"content": {"application/json": {"examples": EXAMPLES}}}, **described(*REFUSED)
    },
    openapi_extra=_form(FORM),
)  # fmt: skip
async def predict(
    name: str, request: Request, service: Here, each_frame: EachFrame = False
) -> Response:
    """Read the video, wait for a decoder, and answer; nothing is done for a client that left."""
    async with _counted(service, name, request):
        served = service.shelf.find(name)
        async with service.desk.received(request) as upload:
            work = service.desk.answer(served, upload, each_frame=each_frame)
            answer = await unless_left(request, work)
        return await _as_json({**answer, "model": name, "version": served.version})


@closed.post(
    "/v1/models/{name}/batch",
    summary="Answer several videos",
    response_model=Several,
    responses=described(*REFUSED),
    openapi_extra=_form(BATCH_FORM),
)
async def batch(
    name: str, request: Request, service: Here, each_frame: EachFrame = False
) -> Response:
    """Answer every video of a form; what is wrong with one is told in its place."""
    async with _counted(service, name, request):
        served = service.shelf.find(name)
        own = {"model": name, "version": served.version}
        async with service.desk.received(request, batch=True) as upload:
            work = _several(service.desk, served, upload, own, each_frame)
            return await _as_json({"answers": await unless_left(request, work)})


async def _as_json(answer: dict[str, Any]) -> Response:
    """Write an answer beside the event loop: every moment of a long video is megabytes."""
    # In pieces, as a thread that writes all at once lets no other run.
    text = await asyncio.to_thread(lambda: "".join(WRITER.iterencode(answer)))
    return Response(text, media_type="application/json")


async def _several(
    desk: Desk, served: Served, upload: Upload, own: dict[str, Any], each_frame: bool
) -> list[dict[str, Any]]:
    slots = asyncio.Semaphore(desk.allowed.decoders)  # others have their turn between

    async def one(place: int) -> dict[str, Any]:
        file = {"file": upload.files[place].name}
        try:
            async with slots:
                answer = await desk.answer(served, upload, place, each_frame=each_frame)
            return {**file, **answer, **own}
        except ClipmillError as error:
            problem = body_of(status_of(error), str(error))
        except Exception:
            log.exception("a video of a batch")
            problem = body_of(500, FAILED)
        return {**file, "problem": problem.model_dump()}

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(place)) for place in range(len(upload.files))]
    return [task.result() for task in tasks]


@asynccontextmanager
async def _counted(service: Service, name: str, request: Request) -> AsyncIterator[None]:
    """Count a request by what becomes of it."""
    figures, began, status = service.desk.metrics, time.monotonic(), 500
    known = name if name in service.shelf.names else ""
    try:
        yield
        status = 200
    except ClipmillError as error:
        status = status_of(error)
        raise
    except ClientDisconnect:
        status = CLIENT_LEFT
        raise
    finally:
        figures.requests.labels(known, str(status)).inc()
        figures.seconds.labels(known).observe(time.monotonic() - began)


def make_app(
    models: Shelf | Iterable[Source], *, token: str | None, allowed: Allowed | None = None
) -> FastAPI:
    """Make the service of these models; without a token anyone who reaches it may ask.

    Models are loaded here, unless their shelf has done so; `app.state.service.close()` ends what
    works for it.
    """
    if token == "":
        raise UsageError("an empty token", "a secret one, or None for an open server")
    shelf = models if isinstance(models, Shelf) else Shelf(models)
    if not isinstance(models, Shelf):
        shelf.load()
    # The interactive pages of FastAPI load scripts from elsewhere: ours works without a network.
    app = FastAPI(title="clipmill", version=__version__, docs_url=None, redoc_url=None)
    app.state.service = Service(shelf, Desk(allowed or Allowed()), token)
    app.include_router(public)
    app.include_router(closed)
    install(app)
    return app
