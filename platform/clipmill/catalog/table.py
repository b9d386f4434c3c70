"""The catalog as the rest sees it: records of a dataset, or those of a split and a filter.

Columns are read when they are asked for, and only those. A part is a list of row numbers over
the same file. Knows neither how a catalog is written nor how it is found.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipmill import storage
from clipmill.catalog.digests import MissingDigestError, digest_of, digest_of_digests
from clipmill.catalog.schema import FEW_VALUES, MEASURES, SCHEMA, VIDEO_SUFFIX
from clipmill.catalog.stored import InMemory, Names, Places, Stored
from clipmill.catalog.where import Filter, parse
from clipmill.errors import DataError


@dataclass(frozen=True, eq=False)
class Catalog:
    """Records of a dataset, or a part of them; rows are addressed by their place here.

    Rows that lie nowhere may be given as a table.
    """

    folder: str
    stored: Stored = field(repr=False)
    meta: dict[str, Any] = field(repr=False)
    places: Places | None = field(default=None, repr=False)  # of its rows in the file; None: all

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
    def keys(self) -> Sequence[str]:
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

    @functools.cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        return {}

    def _read_column(self, name: str) -> NDArray[Any]:
        if name in FEW_VALUES:
            names, numbers = self.numbered(name)
            return np.array([*names, None], object)[numbers]  # -1, no value, takes the last
        pieces = self.stored.pieces([name], self.places)
        columns = [np.asarray(p[name].to_numpy(zero_copy_only=False)) for p in pieces]
        kind = SCHEMA.field(name).type
        empty = np.empty(0, kind.to_pandas_dtype() if pa.types.is_primitive(kind) else object)
        return np.concatenate(columns) if columns else empty

    def numbered(self, name: str) -> tuple[list[str], NDArray[np.int64]]:
        """A column of few values: the sorted names, and each row's place among them or -1."""
        known: dict[str | None, int] = {}
        parts: list[NDArray[np.int64]] = []
        for piece in self.stored.pieces([name], self.places, few_values=True):
            for chunk in piece[name].chunks:
                told = [known.setdefault(v, len(known)) for v in chunk.dictionary.to_pylist()]
                numbers = chunk.indices.fill_null(len(told)).to_numpy(zero_copy_only=False)
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
        names, numbers = self.numbered("label")
        return np.array([*(self._target_of.get(name, -1) for name in names), -1])[numbers]

    def row(self, place: int) -> dict[str, Any]:
        """One record as a plain dict, with `target`: its class as a number."""
        return self.rows([place])[0]

    def rows(self, places: Iterable[int]) -> list[dict[str, Any]]:
        """Some records as plain dicts, in the order asked."""
        asked = [range(len(self))[int(place)] for place in places]  # refuses what is beyond
        inner = asked if self.places is None else self.places[asked].tolist()
        rows = self.stored.rows(inner)
        return [{**row, "target": self._target_of.get(row["label"], -1)} for row in rows]

    def read(self, row: dict[str, Any], suffix: str | None = None) -> bytes:
        """The bytes of a record's member, or of its video, by one range read."""
        return self.read_part(row, suffix, 0, None)

    def read_part(
        self, row: dict[str, Any], suffix: str | None, offset: int, length: int | None
    ) -> bytes:
        """Some bytes of a record's member (None: its video); without a length all from there on."""
        wanted = suffix or row.get("suffix") or VIDEO_SUFFIX
        for member in row["members"]:
            if member["suffix"] == wanted:
                shard = storage.join(self.folder, row["shard"])
                count = member["length"] - offset if length is None else length
                return storage.read_range(shard, member["offset"] + offset, count)
        raise DataError(f"record {row['key']} has no member .{wanted}", "a dataset that has it")

    def part(self, *, split: str | None = None, where: str | None = None) -> "Catalog":
        """The records of a split that fulfil an expression such as `duration > 2`."""
        places = self.places
        if split is not None:
            names, numbers = self.numbered("split")
            chosen = np.flatnonzero(numbers == (names.index(split) if split in names else -2))
            places = chosen if places is None else places[chosen]
        if where:
            places = self._fulfilling(parse(where), places)
        return Catalog(self.folder, self.stored, self.meta, places)

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
