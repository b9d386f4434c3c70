"""Who is compared with whom: by law over all records, and the same wherever it is asked for."""

from typing import Any

import numpy as np
import pytest

from clipmill.catalog import Catalog
from clipmill.errors import PlanError
from clipmill.plan import Plan, Sampling
from clipmill.plugin import Draw
from clipmill_similar.binary_similarity import BinarySimilarity
from clipmill_similar.partners import (
    ALIKE,
    KINDS,
    OTHER,
    SAME,
    Paired,
    groups_of,
    pairs_of_test,
    training_pairs,
)
from clipmill_similar.siamese import Siamese
from clipmill_similar.triplet import Triplet
from tiny import catalog_of, rows


def people(count: int = 48, *, alone: int = 0) -> Catalog:
    """Records of two labels, four of each identity; some are the only one of theirs."""
    made = rows(count)
    for place, row in enumerate(made):
        row["identity"] = f"{row['label']} {place // 8}"
    for place in range(alone):
        made[place]["identity"] = f"alone {place}"
    return catalog_of(made)


def kinds_are_true(made: Paired, catalog: Catalog) -> None:
    who, label = catalog.column("identity"), catalog.column("label")
    for first, second, kind in zip(made.first, made.second, made.kind, strict=True):
        assert first != second
        same, alike = who[first] == who[second], label[first] == label[second]
        assert KINDS[kind] == (SAME if same else ALIKE if alike else OTHER)


def test_pairs_of_a_test_are_balanced_and_half_of_the_others_share_the_label() -> None:
    catalog = people()
    made = pairs_of_test(groups_of(catalog, "identity"), Draw(3), 2)
    kinds_are_true(made, catalog)
    assert np.bincount(made.kind).tolist() == [96, 48, 48]
    assert np.bincount(made.first).tolist() == [4] * 48
    assert (np.diff(made.first) >= 0).all()


def test_training_draws_kinds_by_their_shares() -> None:
    catalog = people(800)
    made = training_pairs(groups_of(catalog, "identity"), Draw(1), same=0.5, alike=0.25)
    kinds_are_true(made, catalog)
    same, alike, other = np.bincount(made.kind) / 800
    assert same == pytest.approx(0.5, abs=0.06) and alike / (alike + other) == pytest.approx(
        0.25, abs=0.08
    )


def test_one_that_is_alone_is_only_ever_a_negative_and_is_counted() -> None:
    catalog = people(alone=3)
    groups = groups_of(catalog, "identity")
    assert np.flatnonzero(groups.alone).tolist() == [0, 1, 2]
    made = pairs_of_test(groups, Draw(0), 2)
    kinds_are_true(made, catalog)
    assert set(made.first.tolist()) == set(range(48))
    assert not (made.kind[made.first < 3] == 0).any()
    seconds = [made.second] + [
        training_pairs(groups, Draw(seed), same=0.5, alike=0.5).second for seed in range(9)
    ]
    for second in (seconds[0], np.concatenate(seconds[1:])):  # of a test, and of training
        assert {0, 1, 2} & {*second.tolist()}
    assert {0, 1, 2} <= {*np.concatenate(seconds).tolist()}
    (told,) = Siamese().remarks(catalog)
    assert told.startswith("3 of 48 videos") and Siamese().remarks(people()) == []


def test_a_record_that_comes_twice_is_no_partner_of_itself() -> None:
    catalog = people(16, alone=1).picked(np.array([0, 0, 1, 2, 9, 10]))
    groups = groups_of(catalog, "identity")
    assert groups.alone[:2].all()
    made = training_pairs(groups, Draw(0), same=0.9, alike=0.5)
    assert not (made.kind[made.first < 2] == 0).any()


def plan(stage: Any, catalog: Catalog, plugin: Any = Siamese, seed: int = 0) -> Plan:
    return Plan(catalog, plugin(), stage, seed=seed, batch=4)


def test_takes_tell_kinds_by_their_views_and_tests_are_the_same_for_every_run() -> None:
    catalog = people()
    one, other = (plan("test", catalog, seed=seed).epoch(0) for seed in (0, 5))
    for name in ("record", "first", "last", "view"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    who = catalog.column("identity")
    same = np.array([one.views[view] == SAME for view in one.view[:, 1]])
    np.testing.assert_array_equal(same, who[one.record[:, 0]] == who[one.record[:, 1]])
    trained = [plan("train", catalog, seed=seed).epoch(0).record for seed in (0, 5)]
    assert not np.array_equal(*trained)


@pytest.mark.parametrize("plugin", [Siamese, Triplet])
def test_takes_are_the_same_in_whatever_parts_they_are_asked_for(plugin: Any) -> None:
    catalog = people()
    whole = plan("train", catalog, plugin, seed=3).at(0, 96)
    for ranks in (1, 3, 8):
        asked = plan("train", catalog, plugin, seed=3)
        parts = [asked.at(at, at + 96 // ranks) for at in range(0, 96, 96 // ranks)]
        for name in ("record", "view", "first", "seed"):
            told = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(told, getattr(whole, name))


@pytest.mark.parametrize("plugin", [Siamese, Triplet])
def test_balanced_by_class_nobody_is_compared_with_the_same_record(plugin: Any) -> None:
    catalog = people().picked(np.r_[np.arange(0, 48, 2), np.arange(1, 17, 2)])  # 24 and 8 of them
    asked = Plan(catalog, plugin(), "train", seed=0, batch=4, sampling=Sampling(balance="class"))
    record = asked.epoch(0).record
    label = catalog.column("label")[record[:, 0]]
    assert np.count_nonzero(label == "class 0") == np.count_nonzero(label == "class 1")
    who = catalog.column("identity")[record]
    assert (record[:, 0] != record[:, 1]).all() and (who[:, 0] == who[:, 1]).mean() > 0.3


@pytest.mark.parametrize("plugin", [Siamese, Triplet])
def test_balanced_by_class_negatives_are_of_all_classes_alike(plugin: Any) -> None:
    catalog = people().picked(np.r_[np.arange(0, 48, 2), np.arange(1, 17, 2)])  # 24 and 8 of them
    asked = Plan(catalog, plugin(), "train", seed=0, batch=4, sampling=Sampling(balance="class"))
    record = np.concatenate([asked.epoch(number).record for number in range(20)])
    label, who = (catalog.column(name)[record] for name in ("label", "identity"))
    negative = who != who[:, :1]
    alike = negative & (label == label[:, :1])
    for chosen in (negative, alike):  # a quarter and less, if every record came as often
        assert 0.35 < (label[chosen] == "class 1").mean() < 0.65


def test_triplets_are_of_two_identities() -> None:
    catalog = people(alone=2)
    takes = plan("train", catalog, Triplet).epoch(0)
    who = catalog.column("identity")[takes.record]
    assert len(takes) == 46 and takes.record.shape[1] == 3
    assert (who[:, 0] == who[:, 1]).all() and (who[:, 0] != who[:, 2]).all()
    assert (takes.record[:, 0] != takes.record[:, 1]).all()
    several = [plan("train", catalog, Triplet).epoch(number).record[:, 2] for number in range(9)]
    assert {0, 1} <= {*np.concatenate(several).tolist()}  # who is alone is a negative


def test_the_embedding_of_several_clips_lies_where_those_of_one_do() -> None:
    takes = plan("test", catalog_of(rows(1))).epoch(0)
    outputs = [{"embedding": np.array(each)} for each in ((1.0, 0.0), (0.0, 1.0))]
    told = Siamese().answer(outputs, takes)["embedding"]
    np.testing.assert_allclose(told, [0.5**0.5] * 2)
    assert BinarySimilarity().answer(outputs, takes)["embedding"].tolist() == [0.5, 0.5]


def test_nobody_to_compare_with_is_told() -> None:
    with pytest.raises(PlanError, match="without two of one identity"):
        plan("train", people(3, alone=3), Triplet).epoch(0)
    nobody = catalog_of(rows(4))
    assert all(mask.all() for mask in Siamese().unfit(nobody).values())
    assert plan("test", nobody).epoch(0).record.shape[1] == 1, "it can still be embedded"
