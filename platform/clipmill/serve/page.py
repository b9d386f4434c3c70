"""The page at `/`, which needs nothing but this server, and the rules a browser holds it to.

Knows the file, not what it shows.
"""

import base64
import functools
import hashlib
import re
from pathlib import Path

from fastapi.responses import HTMLResponse

PAGE = Path(__file__).with_name("page.html")


def page_response() -> HTMLResponse:
    """The page with its headers."""
    html, policy = _read()
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return HTMLResponse(html, headers=headers)


@functools.cache
def _read() -> tuple[str, str]:
    html = PAGE.read_text(encoding="utf-8")
    rules = [
        "default-src 'none'",
        f"script-src {_hash(html, 'script')}",
        f"style-src {_hash(html, 'style')}",
        "connect-src 'self'",
        "img-src data: blob:",
        "media-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return html, "; ".join(rules)


def _hash(html: str, tag: str) -> str:
    """Allow exactly the page's own inline block, and nothing that anyone may inject."""
    (inner,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digest = hashlib.sha256(inner.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
