"""Where a catalog's rows come from: a table in memory, or a Parquet file read piece by piece.

Both give whole columns of chosen rows, and single rows. Rows are addressed by their number in
the file. Knows neither filters nor what a column means.
"""

import operator
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipmill import storage
from clipmill.catalog.rows import RowMaker
from clipmill.catalog.schema import FEW_VALUES, NOT_FOR_SAMPLES, SCHEMA, SINCE_VERSION_2, with_later
from clipmill.errors import DataError

Places = NDArray[np.int64]  # row numbers, rising

# A row read at random costs its whole group, a column read whole costs something a group.
GROUP_ROWS = 1 << 13
PIECE_GROUPS = 32  # read at once where a column is read whole
# Of groups that rows were read from. Some two million rows: with more, rows in random order cost
# a group each, and a plan is better made with a shuffle window.
KEPT_BYTES = 512 << 20
LEAN = [name for name in SCHEMA.names if name not in NOT_FOR_SAMPLES]


class Stored(Protocol):
    """Rows that can be read by column and by number."""

    @property
    def num_rows(self) -> int:
        """How many rows there are."""

    def pieces(
        self, names: Sequence[str], places: Places | None, *, few_values: bool = False
    ) -> Iterator[pa.Table]:
        """Give columns of chosen rows (None: of all) in order, some thousand rows at a time.

        With `few_values`, columns of few values come as numbers and their names.
        """

    def rows(self, places: Sequence[int], *, lean: bool = False) -> list[dict[str, Any]]:
        """Give single rows, in the order asked; lean ones without NOT_FOR_SAMPLES."""


class InMemory:
    """A table that is there."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.num_rows = int(table.num_rows)
        self._kept: dict[bool, RowMaker] = {}

    def __reduce__(self) -> tuple[type["InMemory"], tuple[pa.Table]]:
        return InMemory, (self.table,)

    def pieces(
        self, names: Sequence[str], places: Places | None, *, few_values: bool = False
    ) -> Iterator[pa.Table]:
        """Give columns of chosen rows, all at once."""
        table = self.table.select(names)
        table = table if places is None else table.take(pa.array(places))
        yield _as_numbers(table) if few_values else table

    def rows(self, places: Sequence[int], *, lean: bool = False) -> list[dict[str, Any]]:
        """Give single rows, in the order asked."""
        if lean not in self._kept:
            self._kept[lean] = RowMaker(self.table.select(LEAN) if lean else self.table)
        return [self._kept[lean].row(place) for place in places]


class InFile:
    """A Parquet file on a disk or in a store; holds next to nothing of it.

    What is pickled is its path: another process opens it for itself.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.RLock()  # a reader of Parquet serves one thread at a time
        store, inner = storage.store_of(path)
        try:
            # A store answers each read late: there, neighbouring columns are fetched together.
            self._file = pq.ParquetFile(inner, filesystem=store, pre_buffer=storage.is_remote(path))
            self._numbered = pq.ParquetFile(
                inner,
                filesystem=store,
                metadata=self._file.metadata,
                read_dictionary=[name for name in FEW_VALUES if name in self.names],
                pre_buffer=storage.is_remote(path),
            )
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, error) from error
        footer = self._file.metadata
        counts = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        self.num_rows = int(footer.num_rows)
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._absent = set(SINCE_VERSION_2) - set(self.names)  # an older clipmill wrote it
        self._kept: OrderedDict[tuple[int, bool], RowMaker] = OrderedDict()
        self._kept_bytes = 0

    def __reduce__(self) -> tuple[type["InFile"], tuple[str]]:
        return InFile, (self.path,)

    @property
    def names(self) -> list[str]:
        """The columns of the file."""
        return self._file.schema_arrow.names  # type: ignore[no-any-return]

    @property
    def told(self) -> bytes | None:
        """What the file itself says of the dataset."""
        return (self._file.metadata.metadata or {}).get(b"clipmill")

    def pieces(
        self, names: Sequence[str], places: Places | None, *, few_values: bool = False
    ) -> Iterator[pa.Table]:
        """Give columns of chosen rows, some groups at a time; groups without any are not read."""
        count = len(self._first) - 1
        for at in range(0, count, PIECE_GROUPS):
            groups = range(at, min(at + PIECE_GROUPS, count))
            if places is None:
                yield self._read(groups, names, few_values)
                continue
            low, high = np.searchsorted(places, self._first[[at, groups.stop]])
            if low == high:
                continue
            chosen = places[low:high]
            inside = np.searchsorted(self._first, chosen, side="right") - 1
            needed = np.unique(inside)
            starts = np.concatenate([[0], np.cumsum(np.diff(self._first)[needed])])[:-1]
            rank = np.searchsorted(needed, inside)
            table = self._read(needed.tolist(), names, few_values)
            yield table.take(pa.array(chosen - self._first[inside] + starts[rank]))

    def rows(self, places: Sequence[int], *, lean: bool = False) -> list[dict[str, Any]]:
        """Give single rows, in the order asked; each group is read once."""
        groups = (np.searchsorted(self._first, places, side="right") - 1).tolist()
        makers = {group: self._group(group, lean) for group in sorted(set(groups))}
        first = self._first.tolist()
        pairs = zip(places, groups, strict=True)
        return [makers[group].row(place - first[group]) for place, group in pairs]

    def _group(self, group: int, lean: bool) -> RowMaker:
        """A group with its columns; the last few asked for are kept."""
        with self._lock:
            if (group, lean) not in self._kept:
                made = RowMaker(self._read([group], LEAN if lean else None, few_values=True))
                self._kept[group, lean] = made
                self._kept_bytes += made.num_bytes
            self._kept.move_to_end((group, lean))
            while len(self._kept) > 1 and self._kept_bytes > KEPT_BYTES:
                self._kept_bytes -= self._kept.popitem(last=False)[1].num_bytes
            return self._kept[group, lean]

    def _there(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name not in self._absent] or ["key"]  # it has the rows

    def _read(
        self, groups: Sequence[int], names: Sequence[str] | None, few_values: bool
    ) -> pa.Table:
        file = self._numbered if few_values else self._file
        try:
            with self._lock:
                asked = None if names is None else self._there(names)
                table = with_later(file.read_row_groups(list(groups), columns=asked))
                return table.select(names) if names else table
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self.path, error) from error


class Names(Sequence[str]):
    """Texts in a column, read like a list and held as bytes: a tenth of what a list takes."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column
        self._first = np.cumsum([0, *map(len, column.chunks)])

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            picked = pa.array(range(*place.indices(len(self))), pa.int64())
            return self._column.take(picked).to_pylist()  # type: ignore[no-any-return]
        return self._column[int(place)].as_py()  # type: ignore[no-any-return]

    def picked(self, places: NDArray[np.integer[Any]]) -> list[str]:
        """Some texts, in the order asked."""
        chunk = np.searchsorted(self._first, places, side="right") - 1
        inside = places - self._first[chunk]
        chunks = self._column.chunks
        pairs = zip(chunk.tolist(), inside.tolist(), strict=True)
        return [chunks[number][place].as_py() for number, place in pairs]

    @property
    def column(self) -> pa.ChunkedArray:
        """The texts as Arrow has them."""
        return self._column

    def __iter__(self) -> Iterator[str]:
        for chunk in self._column.chunks:
            yield from chunk.to_pylist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # it equals lists, which have none

    def __repr__(self) -> str:
        return f"<{len(self)} names>"


def _as_numbers(table: pa.Table) -> pa.Table:
    for place, name in enumerate(table.column_names):
        if name in FEW_VALUES:
            table = table.set_column(place, name, table[name].dictionary_encode())
    return table


def _unreadable(path: str, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read: {error}",
        "the catalog that `clipmill ingest` wrote",
        "restore it, or ingest into another folder",
    )
