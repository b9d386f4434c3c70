"""The page in a real browser: a video dropped, seen, answered, by mouse, keyboard and ear."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser import Page, installed, page_of
from clipmill import serve
from clipmill.video.picture import jpeg
from serving import ALLOWED, CLASSES, TOKEN, client_of, made, model_of, walk

TIMELINE = {
    "plugin": "cnn_rnn", "labels": "frames", "width": 0.125, "frames": 8, "rate": 7.5, "size": 32,
    "resize": 36,
}  # fmt: skip
MASKS = {"plugin": "unet", "size": 32, "resize": 40}
MATCH = {
    "identity": "anna", "recognised": True, "distance": 0.25, "threshold": 0.5,
    "nearest": [{"identity": "anna", "distance": 0.25}, {"identity": "bert", "distance": 0.75}],
}  # fmt: skip
VERSIONS = ["3"]  # of the model "classes", the last in service
SIAMESE = {"plugin": "siamese", "width": 0.125, "size": 32, "resize": 36, "embedding": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made_here = tmp_path_factory.mktemp("page")
    (made_here / "walk.mp4").write_bytes(walk(100))
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    (made_here / "still.jpg").write_bytes(jpeg(picture))
    return made_here


@pytest.fixture(scope="module")
def shelf() -> serve.Shelf:
    """The models; "classes" has the version that is the last of `VERSIONS`."""

    def broken() -> serve.Served:
        raise ValueError("damaged")

    alike, still = made("faces", SIAMESE), model_of("still")

    def champion() -> serve.Served:
        version = VERSIONS[-1]
        return serve.Served(still, version, {"run": f"run-{version}", "data": ["data/walks"]})

    sources = [
        serve.Source("classes", champion, lambda: VERSIONS[-1]),
        serve.fixed("moments", made("moments", TIMELINE)),
        serve.fixed("pixels", made("pixels", MASKS)),
        serve.Source("faces", lambda: serve.Served(alike, match=lambda embedding: MATCH)),
        serve.Source("broken", broken),
    ]
    loaded = serve.Shelf(sources)
    loaded.load()
    return loaded


@pytest.fixture(scope="module")
def page(folder: Path, shelf: serve.Shelf) -> Iterator[Page]:
    program = installed()
    if program is None:
        pytest.skip("no Chromium is installed")

    app = serve.make_app(shelf, token=TOKEN, allowed=ALLOWED)
    with client_of(app) as client:
        address = f"{client.base_url}/#token={TOKEN}"
        with page_of(program, address, folder / "profile") as opened:
            opened.until("document.querySelectorAll('#model option').length === 5")
            yield opened


def choose_model(page: Page, name: str) -> None:
    page.run(f"at('model').value = '{name}'; at('model').dispatchEvent(new Event('change'))")
    page.until(f"!at('answer').hidden && state.answer.model === '{name}'")


def bars(page: Page) -> Any:
    return page.run("[...at('bars').children].map((item) => item.innerText.split('\\n'))")


def test_the_token_leaves_the_address_and_a_broken_model_cannot_be_chosen(page: Page) -> None:
    assert TOKEN not in page.run("location.href")
    choices = page.run("[...at('model').options].map((each) => [each.value, each.disabled])")
    assert dict(choices) == {
        n: n == "broken" for n in ("broken", "classes", "faces", "moments", "pixels")
    }


def test_a_video_that_is_dropped_plays_and_is_answered(page: Page, folder: Path) -> None:
    data = base64.b64encode((folder / "walk.mp4").read_bytes()).decode()
    page.run("at('model').value = 'classes'; at('model').dispatchEvent(new Event('change'))")
    page.run(
        f"""(() => {{
          const bytes = Uint8Array.from(atob('{data}'), (each) => each.charCodeAt(0));
          const given = new DataTransfer();
          given.items.add(new File([bytes], 'walk.mp4', {{ type: 'video/mp4' }}));
          dispatchEvent(new DragEvent('drop', {{ dataTransfer: given, cancelable: true }}));
        }})()"""
    )
    page.until("!at('answer').hidden")
    assert page.run("at('label').textContent") in CLASSES
    assert [each[0] for each in bars(page)] == page.run("state.answer.classes.map((c) => c.name)")
    page.until("at('video').videoWidth === 64 && at('video').currentTime > 0.1")
    marks = page.run("[...document.querySelectorAll('#line i')].length")
    assert marks == len(page.run("state.answer.spans"))
    about = page.run("at('about').textContent")
    assert '"version": "3"' in about and "data/walks" in about
    assert TOKEN not in page.run("document.body.innerText")


def test_the_page_follows_a_model_to_its_next_version(page: Page, shelf: serve.Shelf) -> None:
    VERSIONS.append("4")
    shelf.refresh()
    assert "version 3" in page.run("at('version').textContent")
    page.run("at('model').dispatchEvent(new Event('change'))")
    page.until("!at('answer').hidden && state.answer.version === '4'")
    assert "version 4" in page.run("at('version').textContent")
    about = page.run("at('about').textContent")
    assert '"version": "4"' in about and '"run": "run-4"' in about
    assert page.run("at('model').value") == "classes"


def test_a_timeline_lies_along_the_video_and_leads_to_its_moments(page: Page) -> None:
    choose_model(page, "moments")
    stretches = page.run("state.answer.timeline")
    assert page.run("[...document.querySelectorAll('#line i.class')].length") == len(stretches)
    assert len(bars(page)) == min(10, len(stretches))
    page.run("at('video').pause()")
    last = min(10, len(stretches)) - 1
    page.run(f"at('bars').children[{last}].querySelector('button').focus()")
    page.press("Enter", 13, "\r")  # by the keyboard alone
    start = stretches[last]["start_seconds"]
    page.until(f"Math.abs(at('video').currentTime - {start}) < 0.05")
    page.until(f"at('bars').children[{last}].getAttribute('aria-current') === 'true'")


def test_masks_lie_over_the_part_of_the_picture_that_was_seen(page: Page) -> None:
    choose_model(page, "pixels")
    page.until("!at('mask').hidden")
    told = page.run("state.answer")
    assert page.run("[at('mask').width, at('mask').height]") == told["masks"][0]["size"][::-1]
    painted = page.run(
        """(() => {
          const { width, height } = at('mask');
          const data = at('mask').getContext('2d').getImageData(0, 0, width, height).data;
          return data.filter((_, place) => place % 4 === 3 && data[place]).length / width / height;
        })()"""
    )
    assert painted == pytest.approx(sum(each["share"] for each in told["masks"]), abs=1e-3)
    shares = page.run(
        "(() => { const v = at('video').getBoundingClientRect(), m = at('mask').getBoundingClientRect();"
        " return m.height / v.height; })()"
    )
    assert shares == pytest.approx(told["part"]["bottom"] - told["part"]["top"], abs=0.02)
    page.run("at('masked').focus()")
    page.press(" ", 32, " ")
    page.until("at('mask').hidden")
    page.press(" ", 32, " ")
    page.until("!at('mask').hidden")


def test_matches_and_pictures(page: Page, folder: Path) -> None:
    choose_model(page, "faces")
    assert page.run("at('label').textContent") == "anna"
    assert [each[0] for each in bars(page)] == ["anna", "bert"]
    page.choose("#file", folder / "still.jpg")
    page.until("!at('picture').hidden && at('picture').naturalWidth === 64 && !at('answer').hidden")
    assert page.run("state.answer.input.frames") == 1
    page.run("at('model').value = 'moments'; at('model').dispatchEvent(new Event('change'))")
    page.until("at('fault').textContent.includes('wanted a video')")


def test_a_screen_reader_is_told_what_is_there(page: Page, folder: Path) -> None:
    page.choose("#file", folder / "walk.mp4")
    page.run("at('model').value = 'classes'; at('model').dispatchEvent(new Event('change'))")
    page.until("!at('answer').hidden && state.answer.model === 'classes'")
    heard = page.heard()
    assert "Model" in heard.get("combobox", heard.get("comboBoxMenuList", []))
    assert "Likeliest classes" in heard["list"]
    assert {"status", "list", "region"} <= heard.keys()
    named = [name for role in ("button", "checkbox", "combobox") for name in heard.get(role, [])]
    assert named and all(named)


def test_every_control_is_reached_by_the_keyboard(page: Page) -> None:
    page.run("document.activeElement.blur()")
    reached = set()
    for _ in range(40):
        page.press("Tab", 9)
        reached.add(page.run("document.activeElement.id || document.activeElement.tagName"))
    assert {"model", "file", "video", "whole"} <= reached | {"whole"}
    assert {"model", "file", "video", "SUMMARY"} <= reached


def test_nothing_comes_from_elsewhere_and_no_rule_was_broken(page: Page) -> None:
    asked = [
        each["params"]["request"]["url"]
        for each in page.events
        if each["method"] == "Network.requestWillBeSent"
    ]
    own = page.run("location.origin")
    assert asked and all(url.startswith((own, "data:", f"blob:{own}")) for url in asked)
    logged = [
        each["params"]["entry"]["text"]
        for each in page.events
        if each["method"] == "Log.entryAdded"
    ]
    assert not [text for text in logged if "422" not in text]  # the picture for a model of clips
    thrown = [each for each in page.events if each["method"] == "Runtime.exceptionThrown"]
    assert not thrown
