"""Models over HTTP: post a video, get the answer that `clipmill predict` gives, and a page.

The app, reading uploads, errors and listening are parts that know nothing of each other's work.
"""

from clipmill.serve.app import make_app
from clipmill.serve.listen import bind, new_token, run

__all__ = ["bind", "make_app", "new_token", "run"]
