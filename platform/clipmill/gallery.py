"""Galleries: who is known by one picture or video each, and who a new one shows, if anyone known.

One safetensors file: an embedding an identity, and whose weights made them. Knows no model by name:
whatever answers with an `embedding` and has `distances(one, two)` will do.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from clipmill import checkpoint, infer, storage, video
from clipmill.errors import DataError, PluginError, UsageError, VideoError
from clipmill.infer import Model
from clipmill.video.picture import pixels

FORMAT = 1
NOT_RECOGNISED = "not recognised"
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
PICTURE_CRF = 10  # of a picture that is shown as a video: next to nothing is lost
MOST_HEADER_BYTES = 1 << 26


@dataclass(frozen=True)
class Known:
    """One identity, and what it was enrolled by."""

    identity: str
    file: str
    enrolled_as: str  # picture or video


@dataclass(frozen=True, eq=False)
class Gallery:
    """Whom a model knows."""

    weights_sha256: str
    plugin: str
    known: tuple[Known, ...]
    embeddings: NDArray[np.float32]  # [known, numbers]

    @property
    def identities(self) -> tuple[str, ...]:
        """Their names, in the order of enrolment."""
        return tuple(each.identity for each in self.known)


def enrol(
    model: Model, path: str, identity: str, file: str, *, instead: bool = False
) -> dict[str, Any]:
    """Add an identity by a picture or a video; `instead` of what it was enrolled by before."""
    if not identity.strip() or identity == NOT_RECOGNISED:
        raise UsageError(f"the identity {identity!r}", "a name")
    embedding = embedding_of(model, file)
    path = storage.absolute(path)
    with storage.holding(storage.parent(path), "clipmill gallery"):
        there = _of_model(model, path) if storage.exists(path) else _empty(model, len(embedding))
        if identity in there.identities:
            if not instead:
                raise UsageError(
                    f"{identity} is enrolled in {path}", "another name", "or say --instead"
                )
            there = _without(there, identity)
        known = Known(identity, storage.name_of(file), "picture" if _is_picture(file) else "video")
        made = replace(
            there,
            known=(*there.known, known),
            embeddings=np.concatenate([there.embeddings, embedding[None]]),
        )
        save(path, made)
    return {"gallery": path, "identity": identity, "identities": len(made.known)}


def remove(path: str, identity: str) -> dict[str, Any]:
    """Take an identity out."""
    path = storage.absolute(path)
    with storage.holding(storage.parent(path), "clipmill gallery"):
        there = load(path)
        if identity not in there.identities:
            told = ", ".join(there.identities) or "nobody"
            raise UsageError(f"{identity} is not in {path}", f"one who is: {told}")
        made = _without(there, identity)
        save(path, made)
    return {"gallery": path, "identity": identity, "identities": len(made.known)}


def listed(path: str) -> dict[str, Any]:
    """Tell who is in a gallery, and whose weights it needs."""
    there = load(path)
    return {
        "gallery": storage.absolute(path),
        "plugin": there.plugin,
        "weights_sha256": there.weights_sha256,
        "identities": [asdict(each) for each in there.known],
    }


def match(model: Model, path: str, file: str, *, threshold: float | None = None) -> dict[str, Any]:
    """Say who a picture or a video shows: the nearest within the threshold, or nobody known."""
    there = opened(model, path)
    return {"file": file, **recognised(model, there, embedding_of(model, file), threshold)}


def opened(model: Model, path: str) -> Gallery:
    """The gallery of a model, with someone in it."""
    there = _of_model(model, storage.absolute(path))
    if not there.known:
        raise DataError(f"{path} is empty", "someone to compare with", "`clipmill gallery enrol`")
    return there


def recognised(
    model: Model, there: Gallery, embedding: NDArray[np.float32], threshold: float | None = None
) -> dict[str, Any]:
    """Whom an embedding shows, of a gallery."""
    most = _threshold(model, threshold)
    away = distances(model, embedding, there.embeddings)
    order = np.argsort(away, kind="stable")
    ranked = [
        {"identity": there.identities[at], "distance": float(away[at])} for at in order.tolist()
    ]
    nearest = ranked[0]
    is_known = bool(away[order[0]] <= most)
    return {
        "identity": nearest["identity"] if is_known else NOT_RECOGNISED,
        "recognised": is_known,
        "distance": nearest["distance"],
        "threshold": most,
        "nearest": ranked[:5],
    }


def embedding_of(model: Model, file: str) -> NDArray[np.float32]:
    """What a model makes of a picture or a video."""
    _distances_of(model)
    data = storage.read(file)
    try:
        shown = _as_video(data, model.profile.rate) if _is_picture(file) else data
        answer = infer.joined(model, infer.prepared(model, shown))
    except VideoError as error:
        got, *rest = error.args
        raise VideoError(f"{file}: {got}", *rest) from error
    found = np.asarray(answer["embedding"], np.float32)
    if not np.isfinite(found).all():
        raise DataError(f"the embedding of {file} is not finite", "numbers", "use another model")
    return found


@torch.inference_mode()
def distances(
    model: Model, one: NDArray[np.float32], others: NDArray[np.float32]
) -> NDArray[np.float32]:
    """How far each of several embeddings is from one, by the model's own rule."""
    where = next(model.module.parameters()).device
    two = torch.from_numpy(np.ascontiguousarray(others)).to(where)
    told = _distances_of(model)(torch.from_numpy(one).to(where).expand_as(two), two)
    return np.asarray(told.float().cpu().numpy())


def _distances_of(model: Model) -> Any:
    found = getattr(model.module, "distances", None)
    if found is None:
        raise PluginError(
            f"{model.recipe.model.plugin} compares no embeddings",
            "a model of the family similar, such as triplet",
        )
    return found


def _threshold(model: Model, given: float | None) -> float:
    metrics = model.figures.get("validation", {}).get("metrics", {})
    # That of recognition among many is stricter than that of pairs: of many, some are near.
    told = metrics.get("open_set_threshold", metrics.get("threshold"))
    if given is None and told is None:
        raise UsageError(
            "no threshold: this model was never validated",
            "a distance up to which two are one",
            "give --threshold",
        )
    return float(told if given is None else given)


# --- pictures


def _is_picture(file: str) -> bool:
    return storage.name_of(file).lower().endswith(PICTURES)


def _as_video(data: bytes, rate: float) -> bytes:
    """A picture as a video of one frame, so that it goes the way of all videos."""
    frame = pixels(data)
    height, width = (side - side % 2 for side in frame.shape[:2])
    if not height or not width:
        raise VideoError(f"a picture of {frame.shape[1]} x {frame.shape[0]}", "2 x 2 or more")
    out = BytesIO()
    video.encode(out, [np.ascontiguousarray(frame[:height, :width])], fps=rate, crf=PICTURE_CRF)
    return out.getvalue()


# --- files


def save(path: str, gallery: Gallery) -> None:
    """Write a gallery, visible whole or not at all."""
    told = {
        "format": FORMAT,
        "weights_sha256": gallery.weights_sha256,
        "plugin": gallery.plugin,
        "known": [asdict(each) for each in gallery.known],
    }
    tensors = {"embeddings": np.ascontiguousarray(gallery.embeddings)}
    storage.put(path, safetensors.numpy.save(tensors, {"gallery": json.dumps(told)}))


def load(path: str) -> Gallery:
    """Read a gallery."""
    if not storage.exists(path):
        raise DataError(f"no gallery at {path}", "a file of `clipmill gallery enrol`")
    data = storage.read(path)
    try:
        told = _told(data)
        # A copy: what is read may not be written to, which torch warns of.
        found = np.array(safetensors.numpy.load(data)["embeddings"], np.float32)
        known = tuple(Known(**each) for each in told["known"])
        made = Gallery(str(told["weights_sha256"]), str(told["plugin"]), known, found)
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is no gallery", "a file of `clipmill gallery enrol`") from error
    if told.get("format") != FORMAT:
        raise DataError(f"{path} has the format {told.get('format')}", f"{FORMAT}", "enrol anew")
    if found.ndim != 2 or len(found) != len(known) or not np.isfinite(found).all():
        raise DataError(f"{path} is damaged", f"an embedding for each of {len(known)}")
    return made


def _told(data: bytes) -> Mapping[str, Any]:
    """What stands in the header, which is JSON behind its length."""
    length = int.from_bytes(data[:8], "little")
    if not 0 < length <= min(len(data) - 8, MOST_HEADER_BYTES):
        raise ValueError("no header")
    told: Mapping[str, Any] = json.loads(
        json.loads(data[8 : 8 + length])["__metadata__"]["gallery"]
    )
    return told


def _of_model(model: Model, path: str) -> Gallery:
    there, own = load(path), _sha256(model)
    if there.weights_sha256 != own:
        raise DataError(
            f"{path} was made by {there.plugin} with the weights {there.weights_sha256[:12]}",
            f"those of this model, {own[:12]}",
            "use that model, or enrol in another file",
        )
    return there


def _empty(model: Model, numbers: int) -> Gallery:
    return Gallery(
        _sha256(model), model.recipe.model.plugin, (), np.zeros((0, numbers), np.float32)
    )


def _without(gallery: Gallery, identity: str) -> Gallery:
    kept = [at for at, name in enumerate(gallery.identities) if name != identity]
    known = tuple(gallery.known[at] for at in kept)
    return replace(gallery, known=known, embeddings=gallery.embeddings[kept])


def _sha256(model: Model) -> str:
    return checkpoint.weights_sha256(checkpoint.snapshot(model.module))
