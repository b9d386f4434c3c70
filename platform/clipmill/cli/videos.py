"""What a model says of a video, as a person reads it: a line that sums it up, and a table.

By what an answer holds, the most telling first. Knows answers as plain data, no models.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clipmill.cli import screen

Answer = Mapping[str, Any]
Rows = list[list[object]]
Told = tuple[Sequence[str], Rows, str]  # columns, rows, and what is left to say
SIDES = ("left", "top", "right", "bottom")
FIRST_CLASSES = 5


def show(answer: Answer) -> None:
    """Print the answer to one video."""
    told = next((tell for kind, tell in KINDS.items() if kind in answer), _numbers)
    columns, rows, note = told(answer)
    screen.table(answer["video"], columns, rows)
    if note:
        print(note)


def _timeline(answer: Answer) -> Told:
    columns = ("start_seconds", "end_seconds", "label", "probability")
    return columns, [[_fine(each[name]) for name in columns] for each in answer["timeline"]], ""


def _things(answer: Answer) -> Told:
    """Those that are sure enough, with where they are in pixels of the video."""
    least = answer.get("threshold", 0.0)
    sure = [thing for thing in answer["things"] if thing["score"] >= least]
    rows: Rows = [
        [f"{thing['frame_seconds']:.2f}", thing["id"] or "", thing["label"], _fine(thing["score"]),
         *_pixels(thing["box"], answer)]
        for thing in sure
    ]  # fmt: skip
    less = len(answer["things"]) - len(sure)
    note = f"{len(sure)} sightings in {len(answer['spans'])} frames, boxes in pixels"
    more = f"; {less} below a score of {least:g}: --json tells them, and masks" if less else ""
    return ("seconds", "number", "class", "score", *SIDES), rows, note + more


def _pixels(box: Sequence[float], answer: Answer) -> list[object]:
    part, found = answer["part"], answer["input"]
    ends = (("left", "right", "width"), ("top", "bottom", "height")) * 2
    return [
        round((part[low] + share * (part[high] - part[low])) * found[side])
        for share, (low, high, side) in zip(box, ends, strict=True)
    ]


def _masks(answer: Answer) -> Told:
    rows: Rows = [[each["label"], _fine(each["share"])] for each in answer["masks"]]
    return ("class", "share"), rows, f"of the picture at {answer['frame_seconds']:.2f} s"


def _classes(answer: Answer) -> Told:
    there = answer.get("labels")  # of several classes those that are there
    ranked = answer["classes"][: FIRST_CLASSES if there is None else len(there)]
    rows: Rows = [[each["name"], _fine(each["probability"])] for each in ranked]
    return ("class", "probability"), rows, ""


def _numbers(answer: Answer) -> Told:
    """Of all else the numbers, and of lists how many they hold."""
    left_out = {"video", "spans", "input", "part"}
    rows: Rows = [
        [name, _sides(value) if isinstance(value, list) else value]
        for name, value in answer.items()
        if name not in left_out
    ]
    return ("", ""), rows, ""


def _sides(value: object) -> str:
    sides = []
    while isinstance(value, list):
        sides.append(str(len(value)))
        value = value[0] if value else None
    return f"{' x '.join(sides)} numbers"


def _fine(value: object) -> object:
    return f"{value:.4f}" if isinstance(value, float) else value


KINDS: dict[str, Callable[[Answer], Told]] = {
    "timeline": _timeline,
    "things": _things,
    "masks": _masks,
    "classes": _classes,
}
