"""Errors as HTTP tells them: problem details (RFC 9457), one clear line each.

Maps the tree of errors to statuses. Knows no routes and no models.
"""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as RouteException
from starlette.requests import ClientDisconnect

from clipmill.errors import ClipmillError, PluginError, TooLongError, UsageError, VideoError

MEDIA_TYPE = "application/problem+json"
CLIENT_LEFT = 499  # nobody reads it; it only has to be no success
FAILED = "the server failed; its log says why"  # which has the traceback; strangers get none of it


class Refusal(UsageError):
    """A request that is answered with its own status."""

    def __init__(
        self,
        status: int,
        got: str,
        wanted: str = "",
        todo: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(got, wanted, todo)
        self.status, self.headers = status, headers


class Problem(BaseModel):
    """What every error's body holds."""

    type: str = Field("about:blank", description="the status says it all")
    title: str = Field(description="the status in words")
    status: int
    detail: str = Field(description="what was got, what was wanted, what to do")


def body_of(status: int, detail: str) -> Problem:
    """What the body of an error holds."""
    title = HTTPStatus(status).phrase
    return Problem(type="about:blank", title=title, status=status, detail=detail)


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Make the response of an error."""
    return JSONResponse(body_of(status, detail).model_dump(), status, headers, MEDIA_TYPE)


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe errors for OpenAPI."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }


def status_of(error: ClipmillError) -> int:
    """Whose fault an error is: the request's, the video's or the server's."""
    if isinstance(error, Refusal):
        return error.status
    if isinstance(error, TooLongError):
        return 413  # its name depends on the version of Python
    if isinstance(error, VideoError):
        return HTTPStatus.BAD_REQUEST
    broken = isinstance(error, PluginError)
    return HTTPStatus.INTERNAL_SERVER_ERROR if broken else HTTPStatus.UNPROCESSABLE_ENTITY


def install(app: FastAPI) -> None:
    """Let an app tell all its errors this way."""

    @app.exception_handler(ClipmillError)
    async def told(request: Request, error: ClipmillError) -> Response:
        return problem(status_of(error), str(error), getattr(error, "headers", None))

    @app.exception_handler(RouteException)
    async def routed(request: Request, error: HTTPException) -> Response:
        detail = f"got {request.method} {request.url.path}; /openapi.json tells what there is"
        return problem(error.status_code, detail, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def unfit(request: Request, error: RequestValidationError) -> Response:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{where}: {fault['msg']}")

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_LEFT)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        # uvicorn closes the connection after an exception, which the client has to know.
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, FAILED, {"Connection": "close"})
