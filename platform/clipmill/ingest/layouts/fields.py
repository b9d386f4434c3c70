"""Values that somebody wrote about a video, checked and turned into fields of a Source.

An error names the place, the column as it is called there, what it holds and what it should.
"""

import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, NoReturn

from clipmill.errors import SourceError
from clipmill.ingest.layouts.listing import SPLITS
from clipmill.ingest.sources import Box, Source, Span

NAMES = (
    "path label labels split licence identity group start_seconds end_seconds spans boxes masks "
    "mask_classes".split()
)
SPAN, BOX = ([field.name for field in fields(kind)] for kind in (Span, Box))
PAINTED = r"([^=]+)(?:=(#[0-9a-fA-F]{6}))?"  # a class of masks, and its colour
NO_CLASSES = {"background": 0, "void": 255}  # of masks
ROUNDING = 1e-6  # shares of a picture that someone computed may add up to a little over 1


@dataclass(frozen=True)
class Row:
    """What is told of one video; each field is taken out once, the rest are attributes."""

    where: str  # such as "videos.csv, line 3"
    values: dict[str, Any]
    columns: Mapping[str, str]

    def source(self, path: str) -> Source:
        """Make the source of this row, by fields that are called as ours or mapped to them."""
        start, end = self._times()
        return Source(
            path,
            label=self.text("label"),
            split=self.split(),
            licence=self.text("licence"),
            labels=self.names("labels"),
            identity=self.text("identity"),
            group=self.text("group"),
            start_seconds=start,
            end_seconds=end,
            spans=self._spans(),
            boxes=tuple(self._box(each) for each in self._parts("boxes", BOX)),
            attributes=self.attributes(),  # last: they are what is left
        )

    def column(self, name: str) -> str:
        """Return what this table calls one of our names."""
        american = name == "licence" and "licence" not in self.values
        return self.columns.get(name, "license" if american else name)

    def take(self, name: str) -> Any:
        """Take a field out; what is empty is none."""
        value = self.values.pop(self.column(name), None)
        return None if isinstance(value, str) and not value else value

    def fault(self, name: str, got: object, wanted: str) -> NoReturn:
        """Refuse a value."""
        raise SourceError(
            f"{self.where}: {self.column(name)} {got}", wanted, "mend the value or leave it out"
        )

    def text(self, name: str) -> str | None:
        """Take a field that is text or can be told as such."""
        if (value := self.take(name)) is None:
            return None
        told = plain_text(value)
        if told is None or (told == "nan" and not isinstance(value, str)):
            self.fault(name, _short(value), "text")
        return told or None

    def split(self) -> str | None:
        """Take the split, by any of its names."""
        if (told := self.text("split")) is None:
            return None
        if told.lower() not in SPLITS:
            self.fault("split", repr(told), f"one of {', '.join(SPLITS)}")
        return SPLITS[told.lower()]

    def names(self, name: str) -> tuple[str, ...]:
        """Take names of classes: a list, or text parted by |."""
        if (value := self.take(name)) is None:
            return ()
        parts = [each.strip() for each in value.split("|")] if isinstance(value, str) else value
        told = [plain_text(each) for each in parts] if isinstance(parts, list) else [None]
        if not all(told) or len(set(told)) < len(told):
            self.fault(name, _short(value), "different classes, a list or as a|b")
        return tuple(each for each in told if each)

    def mask_classes(self) -> tuple[tuple[str, ...], dict[str, int]]:
        """Take the classes of masks, and where they are painted (`sky=#808080`) their colours.

        The names `background` and `void` may have colours, too, and are no classes.
        """
        told = [re.fullmatch(PAINTED, each) for each in self.names("mask_classes")]
        painted = [(found[1], found[2]) for found in told if found]
        names = tuple(name for name, _ in painted if name not in NO_CLASSES)
        numbers = {**NO_CLASSES, **{name: at for at, name in enumerate(names, 1)}}
        colours = {paint.lower(): numbers[name] for name, paint in painted if paint}
        if len(painted) < len(told) or len(colours) not in (0, len(painted)):
            self.fault(
                "mask_classes", "are painted alike, or not all", "a|b, or a=#rrggbb|b=#rrggbb"
            )
        return names, colours

    def seconds(self, name: str) -> float | None:
        """Take a time of a video."""
        value = self.take(name)
        return None if value is None else self._number(name, value)

    def attributes(self) -> dict[str, str]:
        """Take all that is left, as flat text."""
        left = {name: value for name, value in self.values.items() if value is not None}
        self.values.clear()
        told = {name: _flat(value) for name, value in left.items()}
        for name in (name for name, value in told.items() if value is None):
            self.fault(name, _short(left[name]), "text, numbers, or lists of them")
        return {name: value for name, value in told.items() if name and value}

    def _times(self) -> tuple[float | None, float | None]:
        start, end = self.seconds("start_seconds"), self.seconds("end_seconds")
        if end is not None and end <= (start or 0):
            self.fault("end_seconds", f"{end:g}", f"more than the start, {start or 0:g}")
        return start, end

    def _number(self, name: str, value: object, most: float = math.inf, of: str = "") -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not (math.isfinite(number) and 0 <= number <= most):
            upper = f" and at most {most:g}" if most < math.inf else ""
            self.fault(name, f"{of}{_short(value)}", f"a number that is not negative{upper}")
        return number

    def _parts(self, name: str, wanted: list[str]) -> list[dict[str, Any]]:
        value = self.take(name)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (json.JSONDecodeError, RecursionError) as error:
                self.fault(name, f"{_short(value)} is no JSON: {error}", "a list as JSON")
        parts = [] if value is None else value
        if not isinstance(parts, list) or not all(isinstance(each, dict) for each in parts):
            self.fault(name, _short(value), f"a list of {{{', '.join(wanted)}}}")
        for number, each in enumerate(parts, 1):
            if strange := each.keys() - set(wanted):
                self.fault(name, f"{number} has {min(map(str, strange))!r}", ", ".join(wanted))
        return parts

    def _spans(self) -> tuple[Span, ...]:
        spans = [self._span(at, each) for at, each in enumerate(self._parts("spans", SPAN), 1)]
        for number, (one, other) in enumerate(itertools.pairwise(spans), 2):
            if other.start_seconds < one.start_seconds:
                got = f"{number} starts at {other.start_seconds:g} s, before the one before it"
                self.fault("spans", got, "spans in order")
        return tuple(spans)

    def _span(self, number: int, each: Mapping[str, Any]) -> Span:
        label = plain_text(each.get("label"))
        if not label:
            self.fault("spans", f"{number} has no label", "a label, start_seconds, end_seconds")
        start, end = (
            self._number("spans", each.get(name), of=f"{number}: {name} ")
            for name in ("start_seconds", "end_seconds")
        )
        if end <= start:
            self.fault(
                "spans", f"{number} goes from {start:g} to {end:g} s", "an end after the start"
            )
        return Span(label, start, end)

    def _box(self, each: Mapping[str, Any]) -> Box:
        seconds = self._number("boxes", each.get("seconds"), of="seconds ")
        x, y, width, height = (
            self._number("boxes", each.get(name), 1 + ROUNDING, f"{name} ")
            for name in ("x", "y", "width", "height")
        )
        if x + width > 1 + ROUNDING or y + height > 1 + ROUNDING or not width * height:
            got = f"at {seconds:g} s: {x:g} + {width:g}, {y:g} + {height:g}"
            self.fault("boxes", got, "shares of the picture, within it and not empty")
        label, identity = plain_text(each.get("label")), plain_text(each.get("identity"))
        return Box(seconds, x, y, width, height, label or None, identity or None)


def plain_text(value: object) -> str | None:
    """Tell a single value as text; None for what is none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # tables make floats of numbers beside empty cells
    if isinstance(value, str | int | float | Decimal | date | datetime | time):
        return str(value)
    return None


def _flat(value: object) -> str | None:
    if isinstance(value, list | dict | tuple):
        return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return plain_text(value)


def _short(value: object) -> str:
    told = repr(value)
    return told if len(told) <= 60 else told[:57] + "..."
