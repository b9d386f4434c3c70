"""Runs, versions and aliases in MLflow; the only module that knows it.

One MLflow run a training run. A model version is code, safetensors and JSON, never a pickle; any
MLflow client can load it. Knows no plugin and no training loop.
"""

from clipmill.track.companion import SAMPLES, accompanied
from clipmill.track.lineage import trace, trained_on
from clipmill.track.outbox import PICTURES, SURROUNDINGS, SYSTEM, Outbox, rows_of
from clipmill.track.registry import (
    CHALLENGER,
    CHAMPION,
    check_alias,
    check_name,
    fetched,
    holder,
    note,
    parse_version,
    register,
    registered_runs,
    resolve,
    versions_of,
)
from clipmill.track.runs import (
    add_files,
    begin,
    finish,
    local_artifacts,
    log,
    mark,
    no_such_run,
    run_id_of,
    tag,
)
from clipmill.track.store import AwayError, is_there, store, uri_of

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "PICTURES",
    "SAMPLES",
    "SURROUNDINGS",
    "SYSTEM",
    "AwayError",
    "Outbox",
    "accompanied",
    "add_files",
    "begin",
    "check_alias",
    "check_name",
    "fetched",
    "finish",
    "holder",
    "is_there",
    "local_artifacts",
    "log",
    "mark",
    "no_such_run",
    "note",
    "parse_version",
    "register",
    "registered_runs",
    "resolve",
    "rows_of",
    "run_id_of",
    "store",
    "tag",
    "trace",
    "trained_on",
    "uri_of",
    "versions_of",
]
