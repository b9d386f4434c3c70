"""Anyone's WebDataset shards: which videos lie where in which tar, and what lies beside them.

Grouping and braces are the webdataset library's own. Only headers and small members are read; a
video is told by offset and length, so that whoever needs it reads one range and not the tar.
"""

import json
import re
from collections.abc import Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import IO, Any

from clipmill import shards, storage
from clipmill.errors import SourceError
from clipmill.ingest.layouts.fields import Row, plain_text
from clipmill.ingest.layouts.listing import SPLITS, SUFFIXES, Listing, Options
from clipmill.ingest.sources import Source

META = re.compile(r"__[^/]*__($|/)")  # the library passes over these, too
BESIDE = ("json", "cls", "txt")
BESIDE_BYTES = 4 << 20
TOLD = ("label", "labels", "split", "licence", "identity", "group")
PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")
AT_ONCE = 8  # remote tars that are looked at together: it is waiting, not work

Members = dict[str, tuple[str, int, int]]  # by suffix: name, offset, length


def read(source: str, options: Options) -> Listing:
    """A tar, a pattern with braces, or a folder that holds tars."""
    tars = tars_of(source)
    splits = _splits_by_name(source, tars)
    at_once = AT_ONCE if storage.is_remote(tars[0]) else 1
    with ThreadPoolExecutor(at_once) as pool:
        found = list(pool.map(lambda tar: _read_tar(tar, splits.get(tar), options), tars))
    sources = [each for part in found for each in part.sources]
    passed = [name for part in found for name in part.warnings]
    told = f"{len(passed)} members or samples hold no video, such as {min(passed, default='')}"
    return Listing(sources, [told] if passed else [])


def refuse_commands(source: str) -> None:
    """Refuse what the webdataset library would run as a command."""
    if source.lstrip().startswith("pipe:") or source == "-":
        raise SourceError(
            f"{source!r} is a command", "paths or URIs of tars", "run it yourself, into files"
        )


def tars_of(source: str) -> list[str]:
    """List the tars that a source means."""
    refuse_commands(source)
    if not _is_tar(source) and storage.exists(source):
        files = storage.list_files(source)
        tars, packed = [f for f in files if _is_tar(f)], [f for f in files if f.endswith(PACKED)]
    elif storage.exists(source):
        tars, packed = [source], []
    else:
        tars, packed = _expanded(source), []
    if not tars:
        raise SourceError(
            f"{packed[0]} is packed" if packed else f"{source} holds no tar",
            "plain .tar files, of which parts can be read",
            "unpack it to .tar" if packed else "",
        )
    return tars


def _is_tar(path: str) -> bool:
    return storage.name_of(path).lower().endswith(".tar")


def _expanded(source: str) -> list[str]:
    from webdataset.shardlists import expand_urls  # brings torch: only where it is needed

    try:
        found = [str(path) for path in expand_urls(source)]
    except (AssertionError, ValueError) as error:
        raise SourceError(f"{source}: {error}", "a pattern such as x-{000..007}.tar") from error
    for each in found:
        refuse_commands(each)
    tars = [storage.absolute(each) for each in found]
    if missing := [tar for tar in tars if not storage.exists(tar)]:
        raise SourceError(
            f"{len(missing)} of {len(tars)} tars of {source} are not there, such as {missing[0]}",
            "tars that are there",
        )
    return tars


def _splits_by_name(source: str, tars: list[str]) -> dict[str, str]:
    """Tell splits by train-0000.tar or SOURCE/train/0000.tar, if every tar is called so."""
    found: dict[str, str] = {}
    is_folder = not _is_tar(source) and storage.exists(source)
    for tar in tars:
        words = [re.split(r"[-_.]", storage.name_of(tar))[0]]
        if is_folder:
            words += storage.below(tar, source).split("/")[:-1]
        for word in words:
            if word.lower() in SPLITS:
                found[tar] = SPLITS[word.lower()]
    return found if found.keys() == set(tars) else {}


def _read_tar(tar: str, split: str | None, options: Options) -> Listing:
    sources: list[Source] = []
    passed: list[str] = []
    with storage.opened(tar) as file:
        for key, members in _samples(tar, passed):
            videos = [each for suffix, each in members.items() if _is_video(suffix)]
            passed += [] if videos else [f"{tar}#{key}"]
            for name, offset, length in videos:
                told = _Beside(tar, key, members, file).source(split, options)
                sources.append(replace(told, member=name, offset=offset, length=length))
    return Listing(sources, passed)


def _is_video(suffix: str) -> bool:
    return PurePosixPath(f"x.{suffix}").suffix in SUFFIXES


def _samples(tar: str, passed: list[str]) -> Iterator[tuple[str, Members]]:
    from webdataset.tariterators import base_plus_ext

    seen: set[str] = set()
    key, members = None, Members()
    for name, offset, length in shards.members(tar):
        base, suffix = base_plus_ext(name)
        if base is None or META.match(name):
            passed += [] if META.match(name) else [f"{tar}#{name}"]
            continue
        if base != key:
            if key is not None:
                yield key, members
            if base in seen:
                raise SourceError(
                    f"{tar}: the members of {base} are not adjacent",
                    "a sorted tar",
                    "write it again with its files sorted by name",
                )
            seen.add(base)
            key, members = base, Members()
        if suffix.lower() in members:
            raise SourceError(f"{tar} holds {name} twice", "every member once")
        members[suffix.lower()] = (name, offset, length)
    if key is not None:
        yield key, members


@dataclass(frozen=True)
class _Beside:
    """The small members beside a video."""

    tar: str
    key: str
    members: Members
    file: IO[bytes]

    def source(self, split: str | None, options: Options) -> Source:
        """Tell what they say; a sample with an unreadable one is left out, and says why."""
        try:
            values = self._values()
        except (ValueError, RecursionError) as error:
            return Source(self.tar, left_out=f"the members beside {self.key}: {error}")
        columns = self._columns(values, options.columns)
        names = {columns.get(name, name) for name in (*TOLD, "license")} | {*columns.values()}
        taken = {
            name: values[name]
            for name in names & values.keys()
            if name in columns.values() or _is_simple(values[name])
        }
        told = Row(f"{self.tar}#{self.key}", taken.copy(), columns).source(self.tar)
        ours = values.get("attributes")  # clipmill keeps them apart from what it knows itself
        rest = ours if isinstance(ours, dict) else _named(values, taken.keys())
        flat = {name: text for name, value in rest.items() if (text := plain_text(value))}
        attributes = {**told.attributes, **flat}
        return replace(told, split=told.split or split, attributes=attributes)

    def _values(self) -> dict[str, Any]:
        texts = {name: self._text(name) for name in BESIDE if name in self.members}
        told = json.loads(texts.pop("json")) if "json" in texts else {}
        if not isinstance(told, dict):
            raise ValueError(f"JSON holds a {type(told).__name__}, wanted an object")
        return {**told, **texts}

    def _text(self, suffix: str) -> str:
        name, offset, length = self.members[suffix]
        if length > BESIDE_BYTES:
            raise ValueError(f"{name} has {length} bytes, wanted at most {BESIDE_BYTES}")
        self.file.seek(offset)
        return self.file.read(length).decode("utf-8-sig").strip()

    def _columns(self, values: Mapping[str, Any], chosen: Mapping[str, str]) -> dict[str, str]:
        # Beside JSON a text is a caption, as video2dataset writes it; alone it is the class.
        names = ["label", "cls", *([] if "json" in self.members else ["txt"])]
        label = next((name for name in names if values.get(name) not in (None, "")), "label")
        return {"label": label, **chosen}


def _is_simple(value: object) -> bool:
    """Tell what may be ours from what someone else means by the same word."""
    parts = value if isinstance(value, list) else [value]
    told = [plain_text(each) for each in parts]
    return all(told) and len(set(told)) == len(told)


def _named(values: Mapping[str, Any], taken: Set[str]) -> dict[str, Any]:
    left = {name: value for name, value in values.items() if name not in taken}
    if "txt" in left:
        left = {"caption": left.pop("txt"), **left}
    return left
