"""What runs here, packed as wheels: the platform, and every distribution that offers plugins.

A version ends in a hash of the content, so that it tells which code a job has run. Requirements are
left out: what a plugin needs must be there, for nothing is downloaded on the way. Wheels are unpacked
into the folder of a job, which Ray knows by its content. Wheels themselves it knows by their names,
has pip install them on every host, and fails on a host that comes back and still has some of it.
Knows nothing of clusters.
"""

import base64
import csv
import hashlib
import importlib.util
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution, entry_points
from pathlib import Path

from clipmill import plugin
from clipmill import recipe as recipes
from clipmill.errors import PluginError

PLATFORM = "clipmill"
LEFT_OUT = (
    "__pycache__", ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache",
    ".gitignore", ".rayignore",  # Ray would obey them, and leave out files of a package
)  # fmt: skip
HASH_CHARACTERS = 12
WHEEL = "Wheel-Version: 1.0\nGenerator: clipmill\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
LONG_AGO = (1980, 1, 1, 0, 0, 0)

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Wheel:
    """A wheel that was made."""

    name: str
    version: str
    path: str


def make(folder: str, packages: Sequence[str] = ()) -> list[Wheel]:
    """Pack the platform, all that offers plugins, and packages asked for beside."""
    offered = {dist.name: dist for dist in _offering()}
    made = [_of(dist, folder) for _, dist in sorted(offered.items())]
    for package in packages:
        files = dict(_files_of(package))
        made.append(pack(package, "0", files, "", folder))
    return made


def unpack(wheels: Sequence[Wheel], folder: str) -> None:
    """Put what wheels hold into a folder from which it can be imported, with what is known of them."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel.path) as archive:
            for inner in archive.namelist():  # they are our own, and lead nowhere else
                path = Path(folder, inner)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(inner))


def _offering() -> Iterator[Distribution]:
    yield distribution(PLATFORM)
    for point in entry_points(group=plugin.GROUP):
        if point.dist is not None:
            yield point.dist


def _of(dist: Distribution, folder: str) -> Wheel:
    files = dict(_contents(dist))
    if dist.name == PLATFORM:
        files |= _recipes()
    points = dist.read_text("entry_points.txt") or ""
    return pack(dist.name, dist.version, files, points, folder)


def _contents(dist: Distribution) -> Iterator[tuple[str, bytes]]:
    """The files of a distribution: those it lists, or, where its code lies elsewhere, its packages."""
    listed = [
        (str(file), Path(str(dist.locate_file(file))))
        for file in dist.files or ()
        if not _is_beside(file.parts)
    ]
    if any(name.endswith(".py") for name, _ in listed):
        yield from ((name, path.read_bytes()) for name, path in listed if path.is_file())
        return
    for package in sorted({point.module.split(".")[0] for point in dist.entry_points}):
        yield from _files_of(package)


def _is_beside(parts: Sequence[str]) -> bool:
    """Whether a listed file is none of the code: scripts, caches, the listing itself."""
    about = parts[0].endswith((".dist-info", ".pth", ".egg-info"))
    return about or ".." in parts or any(part in LEFT_OUT for part in parts)


def _files_of(package: str) -> Iterator[tuple[str, bytes]]:
    """The files of an importable package or module, wherever it lies."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if spec is None or not (places or spec.origin):
        raise PluginError(f"no package {package}", "one that can be imported here")
    for place in places:
        for path in sorted(Path(place).rglob("*")):
            inner = path.relative_to(place)
            if path.is_file() and not any(part in LEFT_OUT for part in inner.parts):
                yield f"{package}/{inner.as_posix()}", path.read_bytes()
    if not places and spec.origin:
        yield f"{package}.py", Path(spec.origin).read_bytes()


def _recipes() -> dict[str, bytes]:
    """The shipped recipes, which in a repository lie beside the package."""
    found = {}
    for folder in recipes.shipped_folders():
        for path in sorted(folder.rglob("*.yaml")):
            found[f"{PLATFORM}/pipelines/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    return found


def pack(name: str, version: str, files: Files, points: str, folder: str) -> Wheel:
    """Write a wheel whose version tells its content; the same content gives the same bytes."""
    number = f"{version.partition('+')[0]}+g{content_hash(files, points)}"
    plain = re.sub(r"[-_.]+", "_", name)
    about = f"{plain}-{number}.dist-info"
    told = {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n".encode(),
        f"{about}/WHEEL": WHEEL.encode(),
        **({f"{about}/entry_points.txt": points.encode()} if points else {}),
    }
    path = Path(folder, f"{plain}-{number}-py3-none-any.whl")
    whole = {**dict(sorted(files.items())), **told}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for inner, data in {**whole, f"{about}/RECORD": _record(whole, about)}.items():
            archive.writestr(zipfile.ZipInfo(inner, LONG_AGO), data, zipfile.ZIP_DEFLATED)
    return Wheel(name, number, str(path))


def content_hash(files: Files, points: str) -> str:
    """A hash of what a wheel holds."""
    whole = hashlib.sha256(points.encode())
    for name, data in sorted(files.items()):
        whole.update(f"{name}\0{len(data)}\0".encode() + data)
    return whole.hexdigest()[:HASH_CHARACTERS]


def _record(files: Files, about: str) -> bytes:
    """The list of all files with their hashes, which a wheel must have."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        writer.writerow((name, f"sha256={digest}", len(data)))
    writer.writerow((f"{about}/RECORD", "", ""))
    return lines.getvalue().encode()
