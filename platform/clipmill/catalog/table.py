"""The catalog as the rest sees it: records of a dataset, or those of a split and a filter.

Columns are read when they are asked for, and only those. A part is a list of row numbers over
the same file. Knows neither how a catalog is written nor how it is found.
"""

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipmill.catalog.digests import MissingDigestError, digest_of, digest_of_digests
from clipmill.catalog.links import Links, Lists, grouped, picked, read_links
from clipmill.catalog.member import member, member_part
from clipmill.catalog.schema import FEW_VALUES, MEASURES, SCHEMA
from clipmill.catalog.stored import InMemory, Names, Places, Stored
from clipmill.catalog.targets import with_targets
from clipmill.catalog.where import Filter, column_of, numbers_of, parse
from clipmill.errors import DataError

Picks = NDArray[np.integer[Any]]  # rows, any of them several times


@dataclass(frozen=True, eq=False)
class Catalog:
    """Records of a dataset, or a part of them; rows are addressed by their place here.

    Rows that lie nowhere may be given as a table.
    """

    folder: str
    stored: Stored = field(repr=False)
    meta: dict[str, Any] = field(repr=False)
    places: Places | None = field(default=None, repr=False)  # of its rows in the file; None: all
    whole: "tuple[Catalog, Picks] | None" = field(default=None, repr=False)  # picked from there
    beside: str | None = field(default=None, repr=False)  # a file of hard negatives

    def __post_init__(self) -> None:
        if isinstance(self.stored, pa.Table):
            object.__setattr__(self, "stored", InMemory(self.stored.cast(SCHEMA)))

    def __len__(self) -> int:
        return self.stored.num_rows if self.places is None else len(self.places)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted: the place of a name is its label in training."""
        return self._classes

    @functools.cached_property
    def _classes(self) -> tuple[str, ...]:
        return tuple(self.meta["classes"])

    @functools.cached_property
    def _target_of(self) -> dict[str | None, int]:
        return {name: place for place, name in enumerate(self.classes)}

    @property
    def metas(self) -> list[dict[str, Any]]:
        """What is told of each of its datasets; mostly it is one."""
        return list(self.meta.get("datasets", [self.meta]))

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """The names of 1, 2, ... in the masks; none where there are no masks."""
        lists = {tuple(meta["mask_classes"]) for meta in self.metas if meta.get("mask_classes")}
        if len(lists) > 1:
            raise DataError(
                f"the masks of {self.folder} have several lists of classes",
                "one list, so that numbers mean the same",
                "ingest them together",
            )
        return lists.pop() if lists else ()

    @property
    def folders(self) -> list[str]:
        """The folder of each of its datasets."""
        return list(self.meta.get("folders", [self.folder]))

    @property
    def table(self) -> pa.Table:
        """All rows with all columns, for small catalogs and for those who write them anew."""
        pieces = list(self.stored.pieces(SCHEMA.names, self.places))
        return pa.concat_tables(pieces).cast(SCHEMA) if pieces else SCHEMA.empty_table()

    @functools.cached_property
    def digest(self) -> str:
        """Hash of the records as a set; where they lie does not matter."""
        pieces = self.stored.pieces(["record_digest"], self.places)
        try:
            return digest_of_digests(chunk for piece in pieces for chunk in piece[0].chunks)
        except MissingDigestError:  # rows that were never written
            return digest_of(self.table)

    @functools.cached_property
    def keys(self) -> Names:
        """Keys in row order."""
        return Names(self._text("key"))

    def _text(self, name: str) -> pa.ChunkedArray:
        columns = [piece[name] for piece in self.stored.pieces([name], self.places)]
        chunks = [chunk for column in columns for chunk in column.chunks]
        return pa.chunked_array(chunks, pa.string())

    def column(self, name: str) -> NDArray[Any]:
        """One column as an array."""
        if name not in self._columns:
            self._columns[name] = self._read_column(name)
        return self._columns[name]

    def has(self, name: str) -> NDArray[np.bool_]:
        """Whether each record has a value in a column; the values are not kept."""
        if self.whole:
            return self.whole[0].has(name)[self.whole[1]]
        pieces = self.stored.pieces([name], self.places)
        there = [pc.is_valid(piece[name]).to_numpy(zero_copy_only=False) for piece in pieces]
        return np.concatenate([np.empty(0, np.bool_), *there])

    @functools.cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        return {}

    def _read_column(self, name: str) -> NDArray[Any]:
        if self.whole:
            return self.whole[0].column(name)[self.whole[1]]
        if name in FEW_VALUES:
            names, numbers = self.numbered(name)
            return np.array([*names, None], object)[numbers]  # -1, no value, takes the last
        pieces = self.stored.pieces([name], self.places)
        columns = [np.asarray(p[name].to_numpy(zero_copy_only=False)) for p in pieces]
        kind = SCHEMA.field(name).type
        empty = np.empty(0, kind.to_pandas_dtype() if pa.types.is_primitive(kind) else object)
        return np.concatenate(columns) if columns else empty

    def numbered(self, name: str) -> tuple[list[str], NDArray[np.int64]]:
        """A column of texts: the sorted names, and each row's place among them or -1."""
        known: dict[str | None, int] = {}
        parts: list[NDArray[np.int64]] = []
        for piece in self.stored.pieces([name], self.places, few_values=True):
            for chunk in piece[name].chunks:
                coded = chunk if name in FEW_VALUES else chunk.dictionary_encode()
                told = [known.setdefault(v, len(known)) for v in coded.dictionary.to_pylist()]
                numbers = coded.indices.fill_null(len(told)).to_numpy(zero_copy_only=False)
                parts.append(np.array([*told, -1], np.int64)[numbers])
        numbers = np.concatenate(parts) if parts else np.empty(0, np.int64)
        there = np.bincount(numbers[numbers >= 0], minlength=len(known)) > 0
        names = sorted(name for name, place in known.items() if name is not None and there[place])
        turned = np.full(len(known) + 1, -1, np.int64)
        for place, each in enumerate(names):
            turned[known[each]] = place
        return names, turned[numbers]

    def counts(self, name: str) -> dict[str | None, int]:
        """How many rows have each value of a column of few values."""
        names, numbers = self.numbered(name)
        found = np.bincount(numbers + 1, minlength=len(names) + 1).tolist()
        told: Iterable[str | None] = [None, *names]
        return {each: count for each, count in zip(told, found, strict=True) if count}

    def counts_by(self, first: str, second: str) -> Counter[tuple[str | None, str | None]]:
        """How many rows have each pair of values of two columns of few values."""
        names, others = self.numbered(first), self.numbered(second)
        width = len(others[0]) + 1
        found = np.bincount((names[1] + 1) * width + others[1] + 1)
        one, two = [None, *names[0]], [None, *others[0]]
        return Counter(
            {(one[at // width], two[at % width]): int(found[at]) for at in np.flatnonzero(found)}
        )

    @functools.cached_property
    def labels(self) -> NDArray[np.int64]:
        """The place of each record's class among `classes`; -1 where it has none."""
        if self.whole:
            return self.whole[0].labels[self.whole[1]]
        names, numbers = self.numbered("label")
        return np.array([*(self._target_of.get(name, -1) for name in names), -1])[numbers]

    @functools.cached_property
    def datasets(self) -> NDArray[np.int64]:
        """The number of the dataset that each record is of."""
        if self.whole:
            return self.whole[0].datasets[self.whole[1]]
        number = getattr(self.stored, "datasets", None)
        return number(self.places) if number else np.zeros(len(self), np.int64)

    @property
    def records(self) -> Picks:
        """A number a row that is the same for rows of the same record, where some come twice."""
        return self.whole[1] if self.whole else np.arange(len(self))

    def values(self, name: str) -> NDArray[np.float64]:
        """A column of numbers, or an attribute that holds such: `motion`, `attributes.level`."""
        if self.whole:
            return self.whole[0].values(name)[self.whole[1]]
        pieces = self.stored.pieces(column_of(name), self.places)
        parts = [numbers_of(piece, name) for piece in pieces]
        return np.concatenate([np.empty(0), *parts])

    @functools.cached_property
    def negatives(self) -> Links | None:
        """The rows stored as hard negatives for each row, where a plan names a file of them."""
        if self.beside is None:
            return None
        if self.whole is None:
            return read_links(self.beside, self.keys.column)
        whole, rows = self.whole
        if whole.negatives is None:
            return None
        found = np.full(len(whole), -1, np.int64)
        found[rows[::-1]] = np.arange(len(rows))[::-1]  # of rows of the same record the first
        starts, linked = picked(whole.negatives, rows)
        owner, there = np.repeat(np.arange(len(rows)), np.diff(starts)), found[linked]
        return grouped(owner[there >= 0], there[there >= 0], len(rows))

    def lists(self, name: str) -> Lists:
        """A column of lists of numbers: where those of each row begin, and one more; all numbers.

        Those of row r are numbers[start[r] : start[r + 1]]; a row without a list has none.
        """
        if name not in self._lists:
            self._lists[name] = self._read_lists(name)
        return self._lists[name]

    @functools.cached_property
    def _lists(self) -> dict[str, Lists]:
        return {}

    def _read_lists(self, name: str) -> Lists:
        if self.whole:
            return picked(self.whole[0].lists(name), self.whole[1])
        columns = [piece[name] for piece in self.stored.pieces([name], self.places)]
        chunks = [chunk for column in columns for chunk in column.chunks]
        counts = [pc.fill_null(pc.list_value_length(chunk), 0) for chunk in chunks]
        values = [pc.list_flatten(chunk) for chunk in chunks]
        ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), *map(np.asarray, counts)]))
        kind = SCHEMA.field(name).type.value_type.to_pandas_dtype()
        return ends.astype(np.int64), np.concatenate([np.empty(0, kind), *map(np.asarray, values)])

    def row(self, place: int) -> dict[str, Any]:
        """One record as a plain dict, with its `folder` and its classes as numbers."""
        return self.rows([place])[0]

    def rows(self, places: Iterable[int], *, lean: bool = False) -> list[dict[str, Any]]:
        """Some records as plain dicts, in the order asked; lean: without NOT_FOR_SAMPLES."""
        asked = [range(len(self))[int(place)] for place in places]  # refuses what is beyond
        inner = asked if self.places is None else self.places[asked].tolist()
        rows = self.stored.rows(inner, lean=lean)
        return [with_targets({"folder": self.folder, **row}, self._target_of) for row in rows]

    def read(self, row: dict[str, Any], suffix: str | None = None) -> bytes:
        """The bytes of a record's member, or of its video, by one range read."""
        return member({"folder": self.folder, **row}, suffix)

    def read_part(
        self, row: dict[str, Any], suffix: str | None, offset: int, length: int | None
    ) -> bytes:
        """Some bytes of a record's member (None: its video); without a length all from there on."""
        return member_part({"folder": self.folder, **row}, suffix, offset, length)

    def picked(self, rows: Picks) -> "Catalog":
        """Some records, rising, any of them several times: each time a row of its own."""
        places = rows.astype(np.int64) if self.places is None else self.places[rows]
        return Catalog(self.folder, self.stored, self.meta, places, (self, rows), self.beside)

    def with_negatives(self, path: str | None) -> "Catalog":
        """The same with a file of hard negatives (key, keys) beside it."""
        return replace(self, beside=path) if path else self

    def part(self, *, split: str | None = None, where: str | None = None) -> "Catalog":
        """The records of a split that fulfil an expression such as `duration > 2`."""
        places = self.places
        if split is not None:
            names, numbers = self.numbered("split")
            chosen = np.flatnonzero(numbers == (names.index(split) if split in names else -2))
            places = chosen if places is None else places[chosen]
        if where:
            places = self._fulfilling(parse(where), places)
        return Catalog(self.folder, self.stored, self.meta, places, beside=self.beside)

    def _fulfilling(self, wanted: Filter, places: Places | None) -> Places:
        masks = [np.empty(0, np.bool_)]
        there = dict.fromkeys(MEASURES, 0)
        for piece in self.stored.pieces(sorted(wanted.columns), places):
            masks.append(wanted.mask(piece))
            for name in wanted.measured:
                there[name] += len(piece) - piece[name].null_count
        chosen = np.flatnonzero(np.concatenate(masks))
        wanted.check_measured(there, sum(map(len, masks)))
        return chosen if places is None else places[chosen]
