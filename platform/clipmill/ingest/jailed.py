"""The one jail that each process of an ingest keeps, where decoders may do as they like.

Knows nothing of what is done in it; that is `clipmill.ingest.inside`.
"""

import threading
from typing import Any

from clipmill.jail import Jail, Limits

Answer = tuple[dict[str, Any], list[bytes]]

_KEPT: dict[int, Jail] = {}
_LOCK = threading.Lock()


def call(name: str, request: dict[str, Any], *, seconds: float, memory_bytes: int) -> Answer:
    """Let the jail of this process do something within limits."""
    jail = _jail(memory_bytes)
    return jail.call({"call": name, **request}, [], seconds=seconds)


def _jail(memory_bytes: int) -> Jail:
    with _LOCK:
        if memory_bytes not in _KEPT:
            limits = Limits(memory_bytes=memory_bytes, answer_bytes=8 << 30)
            target = "clipmill.ingest.inside:serve"
            _KEPT[memory_bytes] = Jail(target, limits, what="the decoder")
        return _KEPT[memory_bytes]
