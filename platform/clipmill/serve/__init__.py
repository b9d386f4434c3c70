"""Models over HTTP: post a video, get the answer that `clipmill predict` gives, and a page.

The app, reading uploads, decoding, networks, models, errors and listening are parts that know
nothing of each other's work.
"""

from clipmill.serve.allowed import WAITING, Allowed
from clipmill.serve.app import make_app
from clipmill.serve.listen import bind, known_names, new_token, run
from clipmill.serve.shelf import Served, Shelf, Source, fixed

__all__ = [
    "WAITING",
    "Allowed",
    "Served",
    "Shelf",
    "Source",
    "bind",
    "fixed",
    "known_names",
    "make_app",
    "new_token",
    "run",
]
