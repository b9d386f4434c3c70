"""A headless Chromium, driven by its own protocol: as much of it as a test of a page needs."""

import asyncio
import contextlib
import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--mute-audio", "--autoplay-policy=no-user-gesture-required",
    "--window-size=1280,900", "--remote-debugging-port=0",
)  # fmt: skip
SECONDS = 60.0


def installed() -> str | None:
    """The browser's program, where there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One page of the browser."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, line: aiohttp.ClientWebSocketResponse
    ) -> None:
        self._loop, self._line, self._numbers = loop, line, itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **params: Any) -> Any:
        """Have it do something; what comes meanwhile is kept in `events`."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, params), SECONDS))

    async def _call(self, method: str, params: dict[str, Any]) -> Any:
        number = next(self._numbers)
        await self._line.send_json({"id": number, "method": method, "params": params})
        while True:
            told = json.loads((await self._line.receive()).data)
            if told.get("id") == number:
                assert "error" not in told, told
                return told["result"]
            self.events.append(told)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        told = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true."""
        for _ in range(600):
            if self.run(f"!!({script})"):
                return
            self._loop.run_until_complete(asyncio.sleep(0.05))
        raise AssertionError(
            f"never came to be: {script}; the page: {self.run('document.body.innerText')}"
        )

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key and let it go."""
        both = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", **both, **({"text": text} if text else {})
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **both)

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file, as a person does who was asked for one."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def heard(self) -> dict[str, list[str]]:
        """What a screen reader is told, by role."""
        found: dict[str, list[str]] = {}
        for node in self.call("Accessibility.getFullAXTree")["nodes"]:
            if not node.get("ignored"):
                name = node.get("name", {}).get("value", "")
                found.setdefault(node["role"]["value"], []).append(name)
        return found


@contextlib.contextmanager
def page_of(program: str, address: str, folder: Path) -> Iterator[Page]:
    """Open an address in a browser of its own."""
    command = [program, *SWITCHES, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    loop = asyncio.new_event_loop()
    try:
        session, line = loop.run_until_complete(_connected(folder / "DevToolsActivePort"))
        page = Page(loop, line)
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            page.call(f"{domain}.enable")
        page.call("Page.navigate", url=address)
        yield page
        loop.run_until_complete(line.close())
        loop.run_until_complete(session.close())
    finally:
        process.kill()
        process.wait()
        loop.close()


async def _connected(told: Path) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    for _ in range(1200):
        if told.exists() and (lines := told.read_text().splitlines()):
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("the browser did not start")
    session = aiohttp.ClientSession()
    async with session.get(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
        pages = [each for each in await answer.json() if each["type"] == "page"]
    line = await session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)
    return session, line
