"""What all pretexts share: no labels are asked for, and what records lack is found."""

from typing import Any

import numpy as np
import pytest

from clipmill.catalog import Catalog
from clipmill.evaluate.kinds import class_counts
from clipmill.plugin import found
from clipmill_classify.single_frame import SingleFrame
from clipmill_pretext.pretext import Pretext
from clipmill_pretext.records import shorter_than, silent, still
from clipmill_pretext.temporal_order import TemporalOrder
from tiny import catalog_of, rows

PRETEXTS = [entry.plugin for entry in found() if entry.plugin and issubclass(entry.plugin, Pretext)]


def some(**columns: list[Any]) -> Catalog:
    made = rows(len(next(iter(columns.values()))))
    for name, values in columns.items():
        for row, value in zip(made, values, strict=True):
            row[name] = value
    return catalog_of(made)


def test_there_are_pretexts() -> None:
    assert {"temporal_order", "odd_one_out"} <= {each.name for each in PRETEXTS}


@pytest.mark.parametrize("pretext", PRETEXTS, ids=lambda each: each.name)
def test_a_pretext_says_what_its_backbone_is_for(pretext: type[Pretext]) -> None:
    plugin = pretext(**pretext.small)
    name, fields = plugin.downstream()
    known = {entry.name: entry.plugin for entry in found()}[name]
    assert known is not None and known(**fields).views()
    assert plugin.chance is None or 0 < plugin.chance <= 1
    with pytest.raises(ValueError, match="without mixup"):
        pretext(augment=("mixup",))


def test_records_with_and_without_classes_are_alike() -> None:
    made_of = some(label=["a", None, "b"])
    assert class_counts(made_of, TemporalOrder()) == {}
    assert class_counts(made_of, SingleFrame()) == {"a": 1, "b": 1, None: 1}


def test_what_records_lack_is_found() -> None:
    ((reason, short),) = shorter_than(some(frames=[59, 60, 61]), 2.0).items()
    assert (reason, short.tolist()) == ("shorter than 2 s", [True, False, False])
    ((reason, never),) = still(some(motion=[0.0, None, 0.1])).items()
    assert (reason, never.tolist()) == ("without any motion", [True, False, False])
    told = silent(some(has_audio=[False, True, None], silence=[None, 1.0, 0.5]))
    lists = {reason: mask.tolist() for reason, mask in told.items()}
    assert lists == {"without sound": [True, False, False], "silent": [False, True, False]}
    assert all(mask.dtype == np.bool_ for mask in (short, never, *told.values()))
