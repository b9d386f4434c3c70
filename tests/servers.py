"""An object store and a web server on this machine, as fixtures."""

import contextlib
import functools
import http.server
import logging
import threading
from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "clips"


@contextlib.contextmanager
def serving(port: int = 0) -> Iterator[str]:
    """Run a server that speaks S3; gives its host and port."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"{host}:{port}"
    finally:
        server.stop()


@pytest.fixture(scope="module")
def endpoint(store_port: int) -> Iterator[str]:
    """Run a server at the port that the environment tells, gone with the module."""
    with serving(store_port) as at:
        yield at


def emptied(endpoint: str) -> str:
    """The name of a bucket that holds nothing."""
    s3 = boto3.resource("s3", endpoint_url=f"http://{endpoint}")
    s3.create_bucket(Bucket=BUCKET).objects.delete()
    return BUCKET


@pytest.fixture(params=["environment", "address"])
def root(request: pytest.FixtureRequest, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket's address: with the server in the environment, or in the address itself."""
    bucket = emptied(endpoint)
    if request.param == "environment":
        return f"s3://{bucket}"
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    return f"s3://{bucket}?endpoint_override={endpoint}&scheme=http"


@pytest.fixture(params=["environment", "address"])
def store(request: pytest.FixtureRequest, store_port: int) -> Iterator[str]:
    """An empty bucket of the store that the environment tells; or, with that one away, another's."""
    is_told = request.param == "environment"
    with serving(store_port if is_told else 0) as at:
        bucket = f"s3://{emptied(at)}"
        yield bucket if is_told else f"{bucket}?endpoint_override={at}&scheme=http"


class Web(http.server.BaseHTTPRequestHandler):
    """Serves /plain without ranges, /ranged with them, /secret to nobody."""

    protocol_version = "HTTP/1.1"
    body = bytes(range(256)) * 40
    asked: list[str]

    def __init__(self, asked: list[str], *args: object) -> None:
        self.asked = asked
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(f"{self.command} {wanted or 'all'}")
        name = self.path.partition("?")[0]
        if name not in ("/plain.mp4", "/ranged.mp4", "/table.csv"):
            self.answer(403 if name == "/secret" else 404, b"")
        elif name == "/table.csv":
            self.answer(200, b"path,label\nranged.mp4,a\n")
        elif wanted and name == "/ranged.mp4":
            first, last = (int(each) for each in wanted.removeprefix("bytes=").split("-"))
            self.answer(206, self.body[first : last + 1])
        else:
            self.answer(200, self.body)

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def asked() -> list[str]:
    return []


@pytest.fixture(scope="module")
def site(asked: list[str]) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Web, asked))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
        server.server_close()


class Refusing(http.server.BaseHTTPRequestHandler):
    """Speaks as much of S3 as an upload in parts needs, and refuses the second part."""

    protocol_version = "HTTP/1.1"

    def __init__(self, asked: list[str], *args: object) -> None:
        self.asked = asked
        super().__init__(*args)  # type: ignore[arg-type]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append(self.path.partition("?")[2])
        begun = (
            b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
        )
        self.answer(200, begun if "uploads" in self.path else b"<CompleteMultipartUploadResult/>")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        refused = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
        self.answer(*((403, refused) if "partNumber=2" in self.path else (200, b"")))

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("ETag", '"tag"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def refusing(endpoint: str, asked: list[str]) -> Iterator[str]:
    """An address in a store that takes the first part of an upload and not the second."""
    asked.clear()
    handler = functools.partial(Refusing, asked)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"s3://clips/file?endpoint_override=127.0.0.1:{server.server_port}&scheme=http"
        server.shutdown()
        thread.join()
