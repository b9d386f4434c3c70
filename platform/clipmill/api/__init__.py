"""The Python API: one function a verb, the same that the command line calls.

Every function takes plain values and gives a plain dict with the keys that `--json` prints.
Progress is a callback `(what, done, total, figures)`. Heavy libraries are imported inside.
"""

from clipmill.api.answers import compare, embed, evaluate, features, picture, predict
from clipmill.api.datasets import (
    browse,
    forget,
    ingest,
    inspect,
    stats,
    verify,
    webdataset,
    worlds_make,
)
from clipmill.api.galleries import (
    gallery_enrol,
    gallery_list,
    gallery_match,
    gallery_remove,
)
from clipmill.api.installed import plugins_check, plugins_list, plugins_show
from clipmill.api.jobs import jobs_list, jobs_logs, jobs_stop, jobs_wait, submit
from clipmill.api.ledger import clean, follow, promote, runs, show, trace
from clipmill.api.serving import serve
from clipmill.api.shared import Progress, recipe
from clipmill.api.tables import evidence, plugins_table, transfer
from clipmill.api.training import (
    estimate,
    feed,
    look,
    measure_feed,
    plan,
    resume,
    schema,
    sweep,
    train,
)

__all__ = [
    "Progress",
    "browse",
    "clean",
    "compare",
    "embed",
    "estimate",
    "evaluate",
    "evidence",
    "features",
    "feed",
    "follow",
    "forget",
    "gallery_enrol",
    "gallery_list",
    "gallery_match",
    "gallery_remove",
    "ingest",
    "inspect",
    "jobs_list",
    "jobs_logs",
    "jobs_stop",
    "jobs_wait",
    "look",
    "measure_feed",
    "picture",
    "plan",
    "plugins_check",
    "plugins_list",
    "plugins_show",
    "plugins_table",
    "predict",
    "promote",
    "recipe",
    "resume",
    "runs",
    "schema",
    "serve",
    "show",
    "stats",
    "submit",
    "sweep",
    "trace",
    "train",
    "transfer",
    "verify",
    "webdataset",
    "worlds_make",
]
