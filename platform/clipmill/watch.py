"""Looking now and then, in a thread, while something else goes on.

Knows nothing of what is looked at.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def watching(
    look: Callable[[], object],
    *,
    every_seconds: float,
    name: str,
    first: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """While it lasts do `first`, then `look` again and again; nothing of it is left afterwards."""
    over = threading.Event()

    def watch() -> None:
        first()
        while not over.wait(every_seconds):
            look()

    thread = threading.Thread(target=watch, name=f"clipmill-{name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
