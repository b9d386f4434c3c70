"""Stills and sheets: which part of which frame is shown, and how pictures lie side by side."""

from typing import Any

import numpy as np
import pytest

from clipmill import feed
from clipmill.errors import DataError
from clipmill.evaluate.stills import still
from clipmill.video import sheet

ROW = {"height": 40, "width": 80, "frames": 5}


class Footage:
    """Frames whose pixels tell their number, row and column; of an unreadable record none."""

    def __init__(self, row: Any) -> None:
        self.row = row

    def pictures(self, numbers: Any, short_side: int, crop: tuple[int, int, int, int]) -> Any:
        if "fault" in self.row:
            raise DataError("a record that is lost", "one that is there")
        top, left, height, width = crop
        rows, columns = np.mgrid[top : top + height, left : left + width]
        return [np.stack([np.full_like(rows, at), rows, columns], axis=-1) for at in numbers]


@pytest.mark.parametrize(("asked", "shown"), [(0, 0), (3, 3), (9, 4)])
def test_a_still_is_the_middle_of_a_frame(
    asked: int, shown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "Stored", Footage)
    picture = still(ROW, asked, 20)
    assert picture.shape == (20, 20, 3) and picture.dtype == np.uint8
    assert picture[0, 0].tolist() == [shown, 0, 10] and picture[-1, -1].tolist() == [shown, 19, 29]


def test_what_cannot_be_read_is_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "Stored", Footage)
    assert np.array_equal(still({**ROW, "fault": True}, 0, 20), sheet.paper(20, 20))


def test_pictures_lie_side_by_side_with_paper_around() -> None:
    high, low = np.zeros((6, 2, 3), np.uint8), np.zeros((4, 3, 3), np.uint8)
    made = sheet.wide(sheet.beside([high, low], gap=1), 8)
    ink = np.zeros((6, 8), bool)
    ink[:, :2] = ink[:4, 3:6] = True
    assert np.array_equal(made, np.where(ink[..., None], 0, sheet.PAPER).repeat(3, axis=2))
    assert sheet.beside([high, low]).shape == (6, 2 + sheet.GAP_PIXELS + 3, 3)
