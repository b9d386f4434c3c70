"""A tracking store: where it is, how to open it quietly, and whether it is away.

Imports MLflow inside functions: it is slow to load. Knows nothing of what is kept there.
"""

import contextlib
import functools
import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmill import storage
from clipmill.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

SQLITE = "sqlite:///"

# MLflow would ask a server that is away for minutes; what waits here is kept and sent later.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
QUIET = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class AwayError(RegistryError):
    """A store that does not answer now and may answer later."""


class _Hush:
    """Silences warnings while any thread is in it; MLflow warns of its own dependencies.

    Python's own way restores what it found, which of two threads is what the other has set.
    """

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0
        self.before: warnings.catch_warnings[None] = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.before = warnings.catch_warnings()
                self.before.__enter__()
                warnings.simplefilter("ignore")
            self.inside += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.before.__exit__(None, None, None)


_HUSH = _Hush()


def uri_of(given: str | None, folder: str = "runs") -> str:
    """The tracking store: the one given, MLFLOW_TRACKING_URI, or SQLite in the runs' folder."""
    chosen = given or os.environ.get("MLFLOW_TRACKING_URI")
    return chosen or f"{SQLITE}{storage.absolute(folder)}/mlflow.db"


def is_there(uri: str) -> bool:
    """Whether a store can be asked without making it: a database file that exists, or a server."""
    return not uri.startswith(SQLITE) or os.path.exists(uri.removeprefix(SQLITE))


@contextlib.contextmanager
def store(uri: str) -> Iterator["MlflowClient"]:
    """Open a tracking store quietly; the database is made on first use."""
    for name, value in (PATIENCE | QUIET).items():
        os.environ.setdefault(name, value)
    if uri.startswith(SQLITE):
        Path(uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    with _HUSH:
        import mlflow
        from mlflow.exceptions import MlflowException

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            if not is_there(uri):
                _make(Path(uri.removeprefix(SQLITE)))
            yield mlflow.MlflowClient(uri, uri)
        except MlflowException as error:
            raise _told(uri, error) from error


def _make(path: Path) -> None:
    """Make a database under another name: MLflow never mends one whose making was broken off."""
    new = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.new")
    try:
        new.write_bytes(_empty(os.getcwd()))
        with contextlib.suppress(FileExistsError):  # another was quicker
            os.link(new, path)
    finally:
        new.unlink(missing_ok=True)


@functools.cache
def _empty(here: str) -> bytes:
    """What is in a new database: MLflow takes seconds for it, so a process makes one alone.

    The folder that it is made in is told in it, as where an experiment without a name has files.
    """
    import mlflow

    with tempfile.TemporaryDirectory(prefix="clipmill-") as folder:
        path = Path(folder, "mlflow.db")
        uri = f"{SQLITE}{path}"
        mlflow.MlflowClient(uri, uri).search_experiments(max_results=1)
        return path.read_bytes()


def _told(uri: str, error: "MlflowException") -> RegistryError:
    first = str(error).splitlines()[0]
    if is_away(error):
        return AwayError(f"MLflow at {uri} is away: {first[:300]}", todo="start it, or use --track")
    return RegistryError(f"MLflow at {uri}: {first}", todo="check --track")


def is_away(error: "MlflowException") -> bool:
    """Whether a store failed to answer, other than by refusing what was asked."""
    from requests.exceptions import ConnectionError, Timeout
    from sqlalchemy.exc import OperationalError

    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ConnectionError | Timeout | OperationalError):
            return True
        inner = inner.__cause__ or inner.__context__
    status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
    return error.error_code == "TEMPORARILY_UNAVAILABLE" or status in (502, 503, 504)


@contextlib.contextmanager
def ambient(uri: str) -> Iterator[None]:
    """For calls of MLflow that know no store but the process's own: name it for a while."""
    import mlflow

    variable, before = os.environ.get("MLFLOW_TRACKING_URI"), mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # which sets the variable as well
        if variable is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)


def all_pages(search: Callable[..., Any], *args: Any) -> Iterator[Any]:
    """All that a search of MLflow finds, page by page."""
    token = None
    while True:
        page = search(*args, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
