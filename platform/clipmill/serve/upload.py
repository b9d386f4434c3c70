"""Reads uploads, and stops as soon as they are too large or too slow.

What has come lies in memory up to a megabyte a request, then in nameless temporary files. Knows
nothing of what is in it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from clipmill.serve.allowed import Allowed
from clipmill.serve.problems import Refusal

VIDEO, FRAMES = "video", "frames"  # fields of the form
KIND = "multipart/form-data"
FRAMING_BYTES = 64 << 10  # boundaries and headers around what is sent
OTHER_FIELDS = 8  # to tell the sender which names came instead
MEMORY_BYTES = 1 << 20  # of a request, shared by all its files and fields
HOW = f"curl -F {VIDEO}=@FILE"


class File:
    """One uploaded file."""

    def __init__(self, given: UploadFile) -> None:
        self._given = given
        self.name, self.size = given.filename or "", given.size or 0

    def read(self) -> bytes:
        """All of it, in whatever thread calls."""
        self._given.file.seek(0)
        return self._given.file.read()


@dataclass(frozen=True, eq=False)
class Upload:
    """What a request brought: a video, several, or pictures."""

    kind: str
    files: list[File]


@asynccontextmanager
async def received(
    request: Request, allowed: Allowed, came: Callable[[int], None], *, batch: bool = False
) -> AsyncGenerator[Upload]:
    """Receive the files of a request; they are gone afterwards.

    `came` hears how many more bytes came, and may refuse them.
    """
    form = await _form(request, allowed, came, batch)
    try:
        yield _upload(form, allowed, batch)
    finally:
        await form.close()


async def _form(
    request: Request, allowed: Allowed, came: Callable[[int], None], batch: bool
) -> FormData:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != KIND:
        raise Refusal(415, f"a body of type {kind or 'nothing'}", KIND, HOW)
    most = allowed.batch_videos if batch else allowed.pictures
    share = MEMORY_BYTES // (most + OTHER_FIELDS)
    async with aclosing(_limited(request, allowed, came, batch)) as chunks:
        parser = MultiPartParser(
            request.headers, chunks, max_files=most, max_fields=OTHER_FIELDS, max_part_size=share
        )
        parser.spool_max_size = share
        try:
            return await parser.parse()
        except MultiPartException as error:
            message = error.message.rstrip(".")
            raise Refusal(400, message, _wanted(allowed, batch), HOW) from None
        except (ValueError, LookupError) as error:  # such as a charset that nobody knows
            if isinstance(error, Refusal):
                raise
            raise Refusal(400, f"a broken form ({error})", _wanted(allowed, batch), HOW) from None


def _wanted(allowed: Allowed, batch: bool) -> str:
    if batch:
        return f"1 to {allowed.batch_videos} files in fields {VIDEO!r}"
    return f"one file in the field {VIDEO!r}, or up to {allowed.pictures} in fields {FRAMES!r}"


async def _limited(
    request: Request, allowed: Allowed, came: Callable[[int], None], batch: bool
) -> AsyncGenerator[bytes]:
    most = allowed.max_batch_bytes if batch else allowed.max_bytes
    declared = request.headers.get("content-length", "")
    limit, seen = most + FRAMING_BYTES, 0
    if declared.isdigit() and (len(declared) > 15 or int(declared) > limit):
        raise too_large(most)
    began = asyncio.get_running_loop().time()
    async with aclosing(request.stream()) as chunks:
        while (chunk := await _next(chunks, allowed)) is not None:
            seen += len(chunk)
            if seen > limit:
                raise too_large(most)
            came(len(chunk))
            _refuse_slow(asyncio.get_running_loop().time() - began, seen, allowed)
            yield chunk


async def _next(chunks: AsyncGenerator[bytes], allowed: Allowed) -> bytes | None:
    try:
        async with asyncio.timeout(allowed.idle_seconds):
            return await anext(chunks, None)
    except TimeoutError:
        raise _too_slow(f"nothing for {allowed.idle_seconds:g} s", allowed) from None


def _refuse_slow(seconds: float, seen: int, allowed: Allowed) -> None:
    if seconds > allowed.grace_seconds + seen / allowed.least_bytes_a_second:
        raise _too_slow(f"{seen} bytes in {seconds:.0f} s", allowed)


def _too_slow(got: str, allowed: Allowed) -> Refusal:
    wanted = f"{allowed.least_bytes_a_second} bytes a second"
    return Refusal(408, got, wanted, "", {"Connection": "close"})


def _upload(form: FormData, allowed: Allowed, batch: bool) -> Upload:
    names = {name for name, _ in form.multi_items()}
    fields = (VIDEO,) if batch else (VIDEO, FRAMES)
    if len(names) != 1 or not names <= set(fields):
        came = ", ".join(repr(name) for name, _ in form.multi_items()) or "no complete field"
        raise Refusal(400, came, _wanted(allowed, batch), HOW)
    (name,) = names
    files = [File(_file(given, name, allowed)) for given in form.getlist(name)]
    if name == VIDEO and not batch and len(files) > 1:
        raise Refusal(400, f"{len(files)} files in {VIDEO!r}", _wanted(allowed, batch), HOW)
    return Upload("video" if name == VIDEO else "pictures", files)


def _file(given: UploadFile | str, name: str, allowed: Allowed) -> UploadFile:
    if not isinstance(given, UploadFile):
        raise Refusal(400, f"text in the field {name!r}", "a file", HOW)
    if not given.size:
        raise Refusal(400, "an empty file", "a video")
    if given.size > allowed.max_bytes:
        raise too_large(allowed.max_bytes)
    return given


def too_large(max_bytes: int) -> Refusal:
    """The refusal of what is over the limit."""
    size = f"{max_bytes / 2**20:g} MiB" if max_bytes >= 1 << 20 else f"{max_bytes} bytes"
    return Refusal(413, f"a video of more than {size}", f"at most {size}", "cut it")
