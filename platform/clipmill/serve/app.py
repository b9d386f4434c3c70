"""The service: models by name, one video in, the answer of `clipmill predict` out.

Decoding and networks run in threads, as many at once as there are cores; the event loop only
moves bytes. Knows neither registry nor sockets.
"""

import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import quote

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import UploadFile

from clipmill import __version__, infer
from clipmill.errors import UsageError
from clipmill.serve.page import page_response
from clipmill.serve.problems import Refusal, described, install
from clipmill.serve.upload import FIELD, KIND, received

EXAMPLE: dict[str, Any] = {
    "label": "left",
    "classes": [{"name": "left", "probability": 0.98}, {"name": "right", "probability": 0.02}],
    "spans": [{"start_seconds": 0.0, "end_seconds": 3.2}],
    "input": {"frames": 96, "fps": 30.0, "duration_seconds": 3.2, "width": 64, "height": 64},
    "model": "demo",
    "version": "3",
}
FORM = {
    "type": "object",
    "required": [FIELD],
    "properties": {
        FIELD: {
            "type": "string",
            "format": "binary",
            "description": "a video file, whatever its container",
        }
    },
}


@dataclass(frozen=True)
class Served:
    """A model under its name; what is asked of it later comes through here."""

    name: str
    model: infer.Model
    version: str | None

    def answer(self, video: UploadFile) -> dict[str, Any]:
        """Answer one video, in whatever thread calls."""
        told = infer.answer(self.model, video.file.read())
        return {**told, "model": self.name, "version": self.version}


@dataclass(frozen=True)
class Service:
    """All that the routes share."""

    served: dict[str, Served]
    token: str | None
    max_bytes: int
    # A video is read into memory only by a thread that has a slot, so slots bound memory too.
    slots: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(os.cpu_count() or 1))

    def find(self, name: str) -> Served:
        """The model of a name."""
        if name not in self.served:
            raise Refusal(404, f"no model {name!r}", f"one of {', '.join(sorted(self.served))}")
        return self.served[name]


class Card(BaseModel):
    """What a client may know of a model."""

    name: str
    version: str | None
    plugin: str
    family: str
    classes: list[str]
    protocol: dict[str, Any] = Field(description="clips, frames, rate and size that it looks at")
    figures: dict[str, Any] = Field(description="what it reached, as it was measured")
    predict: str = Field(description="where to post a video")


class Models(BaseModel):
    """All models, and the largest video they take."""

    models: list[Card]
    max_bytes: int


class Answer(BaseModel):
    """What is in every answer; a model adds what its kind tells, such as `classes`."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"example": EXAMPLE})

    model: str
    version: str | None
    spans: list[dict[str, float]] = Field(description="what the model looked at")
    input: dict[str, float] = Field(description="what was found in the file")


bearer = HTTPBearer(auto_error=False, description="the token that the server was started with")
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


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
closed = APIRouter(prefix="/v1", dependencies=[Depends(authorised)])


@public.get("/", include_in_schema=False)
async def look() -> HTMLResponse:
    """The page that answers a dropped video."""
    return page_response()


@public.get("/healthz", summary="Whether the server lives")
async def health() -> dict[str, str]:
    """Answer as long as the event loop turns."""
    return {"status": "alive"}


@public.get("/readyz", summary="Whether every model can answer")
async def readiness(service: Here) -> dict[str, Any]:
    """Models are loaded before the server listens: all that are named are ready."""
    return {"status": "ready", "models": {name: "ready" for name in sorted(service.served)}}


@closed.get("/models", summary="Models, their versions and figures", responses=described(401))
async def models(service: Here) -> Models:
    """List what can be asked."""
    cards = [card(service.served[name]) for name in sorted(service.served)]
    return Models(models=cards, max_bytes=service.max_bytes)


def card(served: Served) -> Card:
    """Tell what a model is."""
    model = served.model
    return Card(
        name=served.name,
        version=served.version,
        plugin=type(model.plugin).name,
        family=type(model.plugin).family,
        classes=list(model.classes),
        protocol=infer.protocol(model.recipe),
        figures=model.figures,
        predict=f"/v1/models/{quote(served.name)}/predict",
    )


@closed.post(
    "/models/{name}/predict",
    summary="Answer one video",
    response_model=Answer,
    responses=described(400, 401, 404, 413, 415, 422),
    openapi_extra={
        "requestBody": {"required": True, "content": {KIND: {"schema": FORM}}},
    },
)
async def predict(name: str, request: Request, service: Here) -> JSONResponse:
    """Read the video, then wait for a free thread that decodes and answers it."""
    served = service.find(name)
    async with received(request, service.max_bytes) as video:
        return JSONResponse(await run_sync(served.answer, video, limiter=service.slots))


def make_app(
    models: Mapping[str, infer.Model],
    *,
    token: str | None,
    max_bytes: int = 200 << 20,
    versions: Mapping[str, str] = {},
) -> FastAPI:
    """Make the service of these models; without a token anyone who reaches it may ask."""
    if not models:
        raise UsageError("no models", "at least one to serve")
    if token == "":
        raise UsageError("an empty token", "a secret one, or None for an open server")
    # The interactive pages of FastAPI load scripts from elsewhere: ours works without a network.
    app = FastAPI(title="clipmill", version=__version__, docs_url=None, redoc_url=None)
    served = {
        name: Served(name, model, versions.get(name) or None) for name, model in models.items()
    }
    app.state.service = Service(served, token, max_bytes)
    app.include_router(public)
    app.include_router(closed)
    install(app)
    return app
