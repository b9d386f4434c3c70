"""Views, takes and the sampling of takes: arrays in, arrays out.

A take is one training example to be: a list of (record, view, first frame, last frame) and a
seed of its own. Knows neither video nor catalogs nor torch.
"""

from clipmill.takes.chance import Draw, generator
from clipmill.takes.partners import Links, Pairs, Triplets, pairs, triplets
from clipmill.takes.spans import (
    CROPS,
    crop_box,
    even_spans,
    frame_numbers,
    random_spans,
    snapped,
)
from clipmill.takes.table import Numbers, Stage, Takes, beside, joined, narrow
from clipmill.takes.view import MIXERS, Augmentation, Stream, View

__all__ = [
    "CROPS",
    "MIXERS",
    "Augmentation",
    "Draw",
    "Links",
    "Numbers",
    "Pairs",
    "Stage",
    "Stream",
    "Takes",
    "Triplets",
    "View",
    "beside",
    "crop_box",
    "even_spans",
    "frame_numbers",
    "generator",
    "joined",
    "narrow",
    "pairs",
    "random_spans",
    "snapped",
    "triplets",
]
