"""Records to tar and back: WebDataset shards that any reader reads.

Members of a record stand together, sorted by suffix, with times of 0, so that equal records
give equal bytes. Knows nothing of video; a record is a key and bytes by suffix.
"""

import contextlib
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, cast

from clipmill import storage
from clipmill.errors import DataError, StorageError

BLOCK = 512
COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class FilePart:
    """Bytes that lie in a local file, and the hash by which they are known when copied."""

    path: str
    offset: int
    length: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """What goes into a shard: members by suffix under one key without dots."""

    key: str
    members: dict[str, bytes]
    files: dict[str, FilePart] = field(default_factory=dict)  # members that are copied


@dataclass(frozen=True)
class Placed:
    """Where a record's members lie in its shard."""

    key: str
    members: list[dict[str, str | int]] = field(default_factory=list)
    fault: str = ""  # why the record was left out: a file of it is not what it was


class _Lost(Exception):
    """A file does not give the bytes that were promised."""


def write(path: str, records: Iterable[Record]) -> list[Placed]:
    """Write a shard that becomes visible whole; holds one record in memory at a time."""
    with writing(path) as add:
        return [add(record) for record in records]


@contextlib.contextmanager
def writing(path: str) -> Iterator[Callable[[Record], Placed]]:
    """Give what adds records, one by one, to a shard that becomes visible whole."""
    with (
        storage.writing(path) as file,
        tarfile.TarFile(fileobj=file, mode="w", copybufsize=COPY_BYTES) as tar,
    ):
        yield lambda record: _add(tar, file, record)


def _add(tar: tarfile.TarFile, file: IO[bytes], record: Record) -> Placed:
    if "." in record.key or "/" in record.key:
        raise DataError(f"the key {record.key!r}", "a key without dots and slashes")
    placed, start = Placed(record.key), tar.offset
    try:
        for suffix in sorted([*record.members, *record.files]):
            name, data = f"{record.key}.{suffix}", record.members.get(suffix)
            length = record.files[suffix].length if data is None else len(data)
            placed.members.append(
                {"suffix": suffix, "offset": tar.offset + BLOCK, "length": length}
            )
            if data is None:
                _copy_file(tar, _header(name, length), record.files[suffix])
            else:
                tar.addfile(_header(name, length), io.BytesIO(data))
    except _Lost as error:  # headers are written by now: the record is taken back
        file.seek(start)
        file.truncate()
        tar.offset = start
        return Placed(record.key, fault=str(error))
    finally:
        tar.members = []  # type: ignore[attr-defined]  # it would keep them all
    return placed


def _header(name: str, length: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = length, 0o644
    return member


def _copy_file(tar: tarfile.TarFile, member: tarfile.TarInfo, part: FilePart) -> None:
    try:
        file = open(part.path, "rb")  # noqa: SIM115  # faults of writing are another's
    except OSError as error:
        raise _Lost(_unreadable(error)) from error
    with file:
        file.seek(part.offset)
        source = _Hashing(file)
        tar.addfile(member, cast(IO[bytes], source))
    if source.sha256.hexdigest() != part.sha256:
        raise _Lost(CHANGED)


class _Hashing:
    """Reads a file once, for its copy and its hash."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def read(self, size: int) -> bytes:
        """Give exactly so many bytes."""
        try:
            data = self._file.read(size)
        except OSError as error:
            raise _Lost(_unreadable(error)) from error
        if len(data) < size:
            raise _Lost(CHANGED)
        self.sha256.update(data)
        return data


CHANGED = "the file changed while it was read"


def _unreadable(error: OSError) -> str:
    return f"the file cannot be read: {error.strerror or error}"


def read(path: str) -> Iterator[Record]:
    """Read all records of a shard in order; a cut or disordered tar is named."""
    seen: set[str] = set()
    current: Record | None = None
    for name, data in _members(path):
        key, _, suffix = name.partition(".")
        if current is None or key != current.key:
            if current is not None:
                yield current
            if key in seen:
                raise DataError(f"{path}: the members of {key} are not adjacent", "a sorted shard")
            seen.add(key)
            current = Record(key, {})
        current.members[suffix] = data
    if current is not None:
        yield current


def _members(path: str) -> Iterator[tuple[str, bytes]]:
    try:
        with io.BytesIO(storage.read(path)) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.isfile() else None
                if stream is None:
                    raise DataError(f"{path}: {member.name} is not a plain file", "plain files")
                yield member.name, stream.read()
            _check_end(path, file, tar.offset)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{path} is not a whole tar: {error}", "a whole shard") from error


def members(path: str) -> Iterator[tuple[str, int, int]]:
    """Tell name, offset and length of each file in anyone's tar, by its headers alone."""
    try:
        with storage.opened(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                if not member.isdir():
                    _check_foreign(path, member)
                    yield member.name, member.offset_data, member.size
            _check_end(path, file, tar.offset)
    except (tarfile.TarError, EOFError, OverflowError) as error:
        raise DataError(f"{path} is not a whole tar: {error}", "a whole, unpacked tar") from error


def _check_foreign(path: str, member: tarfile.TarInfo) -> None:
    name = member.name
    if not member.isreg() or member.issparse() or member.size < 0:
        raise DataError(f"{path}: {name} is not a plain file", "plain files")
    if name.startswith("/") or "\0" in name or ".." in name.split("/"):
        raise DataError(f"{path}: the name {name!r} leads out of the tar", "names within it")


def _check_end(path: str, file: IO[bytes], offset: int) -> None:
    # A tar cut exactly between two members reads without an error: look for its end mark.
    file.seek(offset)
    if file.read(BLOCK) != bytes(BLOCK):
        raise DataError(f"{path} has no end mark", "a whole shard")


def faults(folder: str, shard: str, rows: list[dict[str, object]]) -> Iterator[str]:
    """Compare a shard with its catalog rows: structure, members, sizes and hashes."""
    path = storage.join(folder, shard)
    wanted = {str(row["key"]): row for row in rows}
    try:
        for record in read(path):
            row = wanted.pop(record.key, None)
            if row is None:
                yield f"{shard}: record {record.key} is not in the catalog"
            else:
                yield from _record_faults(path, shard, record, row)
    except (DataError, StorageError) as error:
        yield f"{shard}: {error}"
        return
    yield from (f"{shard}: record {key} is missing" for key in sorted(wanted))


def _record_faults(path: str, shard: str, record: Record, row: dict[str, object]) -> Iterator[str]:
    members = row["members"]
    assert isinstance(members, list)
    if {m["suffix"] for m in members} != set(record.members):
        yield f"{shard}: record {record.key} has members {sorted(record.members)}"
        return
    for member in members:
        data = storage.read_range(path, member["offset"], member["length"])
        if data != record.members[member["suffix"]]:
            yield f"{shard}: {record.key}.{member['suffix']} is not at its offset"
    suffix = row.get("suffix") or "mp4"
    digest = hashlib.sha256(record.members.get(str(suffix), b"")).hexdigest()
    if digest != row["sha256"]:
        yield f"{shard}: {record.key}.{suffix} has hash {digest[:12]}, the catalog {row['sha256']}"
