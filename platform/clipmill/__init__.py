"""clipmill: from a heap of video to trained, tracked and served models.

The verbs are in `clipmill.api`; the command line is `clipmill`. This module imports nothing,
so that decode workers and `clipmill --help` stay light.
"""

__version__ = "0.1.0"
