"""The page in a real browser: a video dropped, seen, answered, by mouse, keyboard and ear."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser import Page, installed, page_of
from clipmill import infer, serve, worlds
from clipmill.plugin import found
from clipmill.video.picture import jpeg
from clipmill_segment.mask_rcnn import MaskRCNN
from clipmill_segment.things import mask_of
from serving import ALLOWED, CLASSES, TOKEN, client_of, made, model_of, walk

TIMELINE = {
    "plugin": "cnn_rnn", "labels": "frames", "width": 0.125, "frames": 8, "rate": 7.5, "size": 32,
    "resize": 36,
}  # fmt: skip
MASKS = {"plugin": "unet", "size": 32, "resize": 40}
THINGS = {"plugin": "mask_rcnn", **MaskRCNN.small, "sure": 0.2}  # a guess is surer than that
MATCH = {
    "identity": "anna", "recognised": True, "distance": 0.25, "threshold": 0.5,
    "nearest": [{"identity": "anna", "distance": 0.25}, {"identity": "bert", "distance": 0.75}],
}  # fmt: skip
OFFERED = {entry.name: entry.plugin for entry in found()}
VERSIONS = ["3"]  # of the model "classes", the last in service
SIAMESE = {"plugin": "siamese", "width": 0.125, "size": 32, "resize": 36, "embedding": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made_here = tmp_path_factory.mktemp("page")
    (made_here / "walk.mp4").write_bytes(walk(100))
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    (made_here / "still.jpg").write_bytes(jpeg(picture))
    worlds.make("objects", made_here / "world", videos=3, size=64, seed=0, workers=1)
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
        serve.fixed("things", made("things", THINGS)),
        serve.Source("faces", lambda: serve.Served(alike, match=lambda embedding: MATCH)),
        serve.Source("broken", broken),
    ]
    loaded = serve.Shelf([*sources, *(serve.fixed(name, plain(name)) for name in OFFERED)])
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
            opened.until("document.querySelectorAll('#model option').length > 5")
            yield opened


def plain(name: str) -> infer.Model:
    """A small network of a plugin."""
    plugin = OFFERED[name]
    assert plugin is not None
    return made(name, {"plugin": name, **plugin.small})


def choose_model(page: Page, name: str) -> None:
    page.run(f"at('model').value = '{name}'; at('model').dispatchEvent(new Event('change'))")
    page.until(f"!at('answer').hidden && state.answer.model === '{name}'")


def bars(page: Page) -> Any:
    return page.run("[...at('bars').children].map((item) => item.innerText.split('\\n'))")


def covered(page: Page) -> Any:
    """Which pixels the mask paints, row by row; of a copy, which may be read often."""
    return page.run(
        """(() => {
          const { width, height } = at('mask'), copy = Object.assign(made('canvas'), { width, height });
          const pixels = copy.getContext('2d', { willReadFrequently: true });
          pixels.drawImage(at('mask'), 0, 0);
          const { data } = pixels.getImageData(0, 0, width, height);
          return [...data.filter((_, place) => place % 4 === 3)].map((alpha) => alpha > 0);
        })()"""
    )


def test_the_token_leaves_the_address_and_a_broken_model_cannot_be_chosen(page: Page) -> None:
    assert TOKEN not in page.run("location.href")
    choices = page.run("[...at('model').options].map((each) => [each.value, each.disabled])")
    own = {"broken", "classes", "faces", "moments", "pixels", "things"}
    assert dict(choices) == {name: name == "broken" for name in own | OFFERED.keys()}


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
    assert np.mean(covered(page)) == pytest.approx(
        sum(each["share"] for each in told["masks"]), abs=1e-3
    )
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


# --- things


@pytest.fixture
def objects(page: Page, folder: Path) -> Path:
    """A video of things, answered, and held where the first are."""
    (file,) = (folder / "world").glob("test/*.mp4")
    page.choose("#file", file)
    choose_model(page, "things")
    page.until("at('caption').textContent.startsWith('0') && !at('boxes').hidden")
    page.until("state.drawn === 0 && at('video').paused")
    return file


def seen(page: Page, at: int) -> list[dict[str, Any]]:
    """What is told of one frame."""
    return [thing for thing in page.run("state.answer.things") if thing["at"] == at]


def drawn(page: Page) -> Any:
    """The boxes over the video, in shares of the part that was seen, with their names."""
    return page.run(
        """(() => {
          const whole = at('boxes').getBoundingClientRect();
          return [...at('boxes').children].map((each) => {
            const { left, top, right, bottom } = each.getBoundingClientRect();
            return [each.textContent, [(left - whole.left) / whole.width, (top - whole.top) / whole.height,
              (right - whole.left) / whole.width, (bottom - whole.top) / whole.height]];
          });
        })()"""
    )


def test_things_lie_over_the_video_in_their_boxes_and_masks(page: Page, objects: Path) -> None:
    there = seen(page, 0)
    boxes = drawn(page)
    assert len(boxes) == len(there) > 1
    for (text, box), thing in zip(boxes, reversed(there), strict=True):
        assert text.startswith(f"{thing['label']} #{thing['id']} {100 * thing['score']:.1f}")
        assert box == pytest.approx(thing["box"], abs=0.02)
    colours = page.run(
        "[...at('boxes').children].map((each) => each.style.getPropertyValue('--own'))"
    )
    assert len(set(colours)) == len({thing["id"] for thing in there})
    masks = np.any([mask_of(thing["mask"]) for thing in there], axis=0)
    assert covered(page) == masks.ravel().tolist() and masks.any()


def test_things_lie_over_the_part_that_was_seen(page: Page, folder: Path) -> None:
    page.choose("#file", folder / "walk.mp4")
    choose_model(page, "things")
    page.until("!at('boxes').hidden && at('caption').textContent.startsWith('walk')")
    sides = page.run(
        """(() => {
          const v = at('video').getBoundingClientRect(), b = at('boxes').getBoundingClientRect();
          const scale = Math.min(v.width / 64, v.height / 48), left = (v.width - 64 * scale) / 2;
          return [b.left, b.right].map((side) => (side - v.left - left) / scale / 64);
        })()"""
    )
    part = page.run("state.answer.part")
    assert 0.1 < part["left"] < part["right"] < 0.9
    assert sides == pytest.approx([part["left"], part["right"]], abs=0.01)


def test_things_are_listed_and_lead_to_their_time_by_keyboard(page: Page, objects: Path) -> None:
    page.run("at('more').click()")
    things = page.run("state.answer.things")
    told = bars(page)
    assert [each[0] for each in told] == [f"{t['label']}, number {t['id']}" for t in things]
    assert all("across" in each[2] and "down" in each[2] for each in told)
    last = things[-1]
    page.run("at('bars').lastElementChild.querySelector('button').focus()")
    page.press("Enter", 13, "\r")
    page.until(f"state.drawn === {last['at']}")
    assert page.run("at('video').currentTime") == pytest.approx(last["frame_seconds"], abs=0.01)
    page.until("at('bars').lastElementChild.hasAttribute('data-now')")
    marked = page.run("[...at('bars').children].map((item) => item.hasAttribute('data-now'))")
    assert marked == [thing["at"] == last["at"] for thing in things]
    page.run("at('there').focus()")
    page.press("Enter", 13, "\r")  # behind the last frame comes the first
    page.until("state.drawn === 0")


def test_things_follow_the_video_as_it_plays(page: Page, objects: Path) -> None:
    page.run("at('video').play()")
    for at in (1, 2):
        page.until(f"state.drawn === {at} && !at('boxes').hidden")
    page.run("at('video').pause()")


def test_only_things_of_a_score_are_shown(page: Page, objects: Path) -> None:
    assert page.run("at('least').value") == "20"  # from which on the model numbers things
    page.run("at('least').focus()")
    page.press("End", 35)
    page.until("at('status').textContent === 'Nothing was found with such a score'")
    page.until("!at('boxes').children.length")
    assert bars(page) == []
    page.press("Home", 36)
    page.until("at('boxes').children.length")
    things = page.run("state.answer.things")
    half = sorted(thing["score"] for thing in things)[len(things) // 2]
    page.run(f"setLeast({half}); at('least').dispatchEvent(new Event('input'))")
    least = float(page.run("at('least').value")) / 100
    kept = [thing for thing in things if thing["score"] >= least]
    assert 0 < len(kept) < len(things)
    followed = len({thing["id"] for thing in kept})
    assert page.run("at('status').textContent") == (
        f"{followed} thing{'s' * (followed > 1)} found, seen {len(kept)} times in 4 frames"
    )
    page.run("state.answer.things.forEach((thing) => { thing.id = 0; }); showBars()")
    said = f"{len(kept)} sightings without a number in 4 frames"
    assert page.run("at('status').textContent") == said


def test_a_screen_reader_is_told_of_things(page: Page, objects: Path) -> None:
    heard = page.heard()
    assert "From a score of" in heard["slider"] and "Show the things" in heard["checkbox"]
    first = seen(page, 0)[0]
    told = [name for name in heard["image"] if name.startswith("Things: ")]
    assert told and f"{first['label']}, number {first['id']}" in told[0]
    assert "Things, by the time they are seen at" in heard["list"]
    assert f"{first['label']}, number {first['id']}" in heard["button"]


# --- whatever serves

SHOWN = {"labels", "classes", "timeline", "masks", "things", "match", "right", "error", "embedding"}
SHORT = {"classify": {"classes"}, "similar": {"embedding"}, "segment": {"masks", "things"}}


@pytest.mark.parametrize("name", OFFERED)
def test_the_page_has_words_and_a_list_for_the_answer_of_every_plugin(
    page: Page, folder: Path, name: str
) -> None:
    if page.run("state.file?.name") != "walk.mp4":
        page.choose("#file", folder / "walk.mp4")
    choose_model(page, name)
    plugin = OFFERED[name]
    assert plugin is not None
    kind = page.run("kindOf(state.answer)")
    assert kind in SHORT.get(plugin.family, SHOWN), page.run("Object.keys(state.answer)")
    said, rows = page.run("at('status').textContent"), bars(page)
    assert said and (rows or said.startswith("Nothing was found"))
    assert all(
        len(row) > 1 and "undefined" not in str(row) and "NaN" not in str(row) for row in rows
    )
    assert "undefined" not in said and "NaN" not in said


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
