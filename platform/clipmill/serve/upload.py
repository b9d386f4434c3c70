"""Reads one uploaded video, and stops reading as soon as it is too large.

What has come lies in memory up to a megabyte, then in a nameless temporary file. Knows nothing
of what is in it.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from clipmill.serve.problems import Refusal

FIELD = "video"
KIND = "multipart/form-data"
FRAMING_BYTES = 64 << 10  # boundaries and headers around the video
OTHER_FIELDS = 8  # to tell the sender which names came instead
HOW = f"curl -F {FIELD}=@FILE"


@asynccontextmanager
async def received(request: Request, max_bytes: int) -> AsyncIterator[UploadFile]:
    """Receive the video of a request; the file is gone afterwards."""
    form = await _form(request, max_bytes)
    try:
        yield _video(form, max_bytes)
    finally:
        await form.close()


async def _form(request: Request, max_bytes: int) -> FormData:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != KIND:
        raise Refusal(415, f"a body of type {kind or 'nothing'}", KIND, HOW)
    async with aclosing(_limited(request, max_bytes)) as chunks:
        parser = MultiPartParser(request.headers, chunks, max_files=1, max_fields=OTHER_FIELDS)
        try:
            return await parser.parse()
        except MultiPartException as error:
            message = error.message.rstrip(".")
            raise Refusal(400, message, f"one file in the field {FIELD!r}", HOW) from None


async def _limited(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    declared = request.headers.get("content-length", "")
    limit, seen = max_bytes + FRAMING_BYTES, 0
    if declared.isdigit() and int(declared) > limit:
        raise too_large(max_bytes)
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            seen += len(chunk)
            if seen > limit:
                raise too_large(max_bytes)
            yield chunk


def _video(form: FormData, max_bytes: int) -> UploadFile:
    names = [name for name, _ in form.multi_items()]
    if names != [FIELD]:
        came = ", ".join(repr(name) for name in names) or "no complete field"
        raise Refusal(400, came, f"one field {FIELD!r} and no other", HOW)
    video = form[FIELD]
    if not isinstance(video, UploadFile):
        raise Refusal(400, f"text in the field {FIELD!r}", "a file", HOW)
    if not video.size:
        raise Refusal(400, "an empty file", "a video")
    if video.size > max_bytes:
        raise too_large(max_bytes)
    return video


def too_large(max_bytes: int) -> Refusal:
    """The refusal of a video over the limit."""
    size = f"{max_bytes / 2**20:g} MiB" if max_bytes >= 1 << 20 else f"{max_bytes} bytes"
    return Refusal(413, f"a video of more than {size}", f"at most {size}", "cut it")
