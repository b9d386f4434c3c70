"""Near-duplicates: the same groups as comparing every pair, and quickly."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill.errors import UsageError
from clipmill.ingest import near
from clipmill.ingest.near import near_groups

HASH = 0x9C3A_55E1_07BD_426F  # 32 bits of 64
OTHER = 0x3C5A_9966_F00F_1E87


def by_all_pairs(hashes: Sequence[Sequence[int]], bits: int) -> list[int]:
    """The definition, word by word."""

    def is_blank(value: int) -> bool:
        return not near.BLANK_BITS < value.bit_count() < 64 - near.BLANK_BITS

    def are_near(a: Sequence[int], b: Sequence[int]) -> bool:
        if len(a) != len(b) or 2 * sum(map(is_blank, a)) >= len(a):
            return False
        return all(
            is_blank(x) == is_blank(y) and (is_blank(x) or (x ^ y).bit_count() <= bits)
            for x, y in zip(a, b, strict=True)
        )

    group = list(range(len(hashes)))
    for i, a in enumerate(hashes):
        for j, b in enumerate(hashes[:i]):
            if are_near(a, b) and group[i] != group[j]:
                group = [group[j] if number == group[i] else number for number in group]
    names: dict[int, int] = {}
    return [names.setdefault(number, len(names)) for number in group]


def flipped(value: int, places: Sequence[int]) -> int:
    for place in places:
        value ^= 1 << place
    return value


@st.composite
def videos(draw: st.DrawFn) -> list[list[int]]:
    """Videos around a few centres, some bits away; some blank, some with other counts."""
    centres = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3))
    value = st.one_of(
        st.sampled_from([0, 2**64 - 1, 3]),
        st.builds(
            flipped,
            st.sampled_from(centres),
            st.lists(st.integers(0, 63), max_size=12, unique=True),
        ),
    )
    return draw(st.lists(st.lists(value, min_size=1, max_size=3), max_size=25))


@settings(deadline=None)
@given(videos(), st.integers(0, 12))
def test_groups_are_those_of_comparing_every_pair(hashes: list[list[int]], bits: int) -> None:
    assert near_groups(hashes, bits=bits) == by_all_pairs(hashes, bits)


@settings(deadline=None, max_examples=50)
@given(videos())
def test_crowds_are_walked_to_the_same_groups(hashes: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "CROWD", 2)
        assert near_groups(hashes) == by_all_pairs(hashes, near.NEAR_BITS)


def test_near_is_transitive_and_counts_bits_in_each_hash() -> None:
    a = [HASH, OTHER, HASH]
    b = [flipped(HASH, range(6)), OTHER, flipped(HASH, range(20, 26))]
    c = [flipped(HASH, range(12)), OTHER, HASH]  # 12 from a, 6 from b
    d = [HASH, flipped(OTHER, range(7)), HASH]
    assert near_groups([d, a, c, b], bits=6) == [0, 1, 1, 1]
    assert near_groups([a, c], bits=6) == [0, 1]


def test_blank_pictures_join_nobody() -> None:
    assert near_groups([[0, 0, 0], [0, 0, 0]]) == [0, 1]
    assert near_groups([[HASH, 0, 0], [HASH, 0, 0]]) == [0, 1]
    assert near_groups([[HASH, 0, OTHER], [HASH, 1, OTHER], [HASH, HASH, OTHER]]) == [0, 0, 1]


def test_nothing_and_other_counts() -> None:
    assert near_groups([]) == []
    assert near_groups([[], []]) == [0, 1]
    assert near_groups([[HASH], [HASH, HASH], [HASH]]) == [0, 1, 0]
    with pytest.raises(UsageError, match="bits=-1"):
        near_groups([], bits=-1)


def test_a_hundred_thousand_videos_with_planted_duplicates() -> None:
    rng = np.random.default_rng(7)
    table = rng.integers(0, 2**64, (100_000, 3), dtype=np.uint64)
    copies, originals = rng.permutation(100_000)[:2_000].reshape(2, -1)
    flips = np.uint64(1) << rng.integers(0, 64, (1_000, 3, 6), dtype=np.uint64)
    table[copies] = table[originals] ^ np.bitwise_xor.reduce(flips, axis=2)
    group = np.array(near_groups(table.tolist()))
    assert (group[copies] == group[originals]).all()
    assert len(np.unique(group)) == 99_000
