"""What all similarity models share: pairs of records over a whole catalog, and what measures them.

A model adds its fields, its rule and, where it does not learn from pairs, its plan. Free of torch;
networks are in modules of their own.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from clipmill.errors import PlanError
from clipmill.plugin import (
    MIXERS,
    Augmentation,
    Catalog,
    Decoded,
    Draw,
    Info,
    Learnt,
    Meter,
    Place,
    Plugin,
    Sample,
    Stage,
    Takes,
    View,
    beside,
    even_spans,
)
from clipmill_similar.meter import PairMeter
from clipmill_similar.partners import (
    KINDS,
    PARTS,
    SAME,
    By,
    groups_of,
    pairs_of_test,
    seconds,
    spans,
    training_pairs,
)
from clipmill_similar.recognition import Norm

if TYPE_CHECKING:
    import torch

    from clipmill_similar.network import Rule

LEARNT = 0.6  # AUC, of one that has learnt something
TEST_SEED = 20_060_617  # of the pairs of tests: the same ones for every run


class Similar(Plugin):
    """Embeds videos so that those of one identity are near each other; learns from pairs."""

    family: ClassVar[str] = "similar"
    metric: ClassVar[str] = "auc"
    higher_is_better: ClassVar[bool] = True
    norm: ClassVar[Norm] = "squared"  # how its rule compares embeddings
    small: ClassVar[Mapping[str, Any]] = {
        "width": 0.125, "size": 32, "resize": 36, "embedding": 16, "identities": "label",
        "test_clips": 1,
    }  # fmt: skip

    backbone: str = Field("resnet18", description="any 2D image network of torchvision, by name")
    width: float = Field(1.0, gt=0, le=4, description="multiplies the backbone's channels")
    frames: int = Field(1, ge=1, description="frames of a clip, whose features are averaged")
    rate: float = Field(5.0, gt=0, description="frames a second")
    size: int = Field(112, ge=32, description="height and width of the frames, in pixels")
    resize: int = Field(128, ge=32, description="short side before the crop, in pixels")
    augment: tuple[Augmentation, ...] = Field(
        ("crop",), description="what keeps an identity, each span with chance of its own"
    )
    embedding: int = Field(64, ge=2, description="numbers in which videos are compared")
    identities: By = Field("identity", description="the column that tells who a record shows")
    same: float = Field(0.5, gt=0, lt=1, description="share of pairs of one identity in training")
    alike: float = Field(0.5, ge=0, le=1, description="of the others: share of one label")
    weights: Place | None = Field(None, description="file of backbone weights; nothing is fetched")
    test_clips: int = Field(
        2, ge=1, description="pairs of one identity that a video leads at test, and as many of two"
    )
    test_crops: Literal[1] = Field(1, description="pairs are compared in the middle")

    @field_validator("augment")
    @classmethod
    def _keeps_identities(cls, augment: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        if false := sorted({*augment} & MIXERS):
            raise ValueError(f"without {', '.join(false)}, which make one of two identities")
        return augment

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.resize < self.size:
            raise ValueError(f"resize {self.resize} of at least size {self.size}")
        return self

    @property
    def learns(self) -> Learnt:
        """No classes: identities."""
        return "none"

    def views(self) -> Mapping[str, View]:
        """One clip for each span; the views of second ones tell what they are to the first."""
        view = View(
            frames=self.frames, rate=self.rate, size=self.size, resize=self.resize,
            augment=self.augment,
        )  # fmt: skip
        return dict.fromkeys(("train", "test", *KINDS), view)

    def unfit(self, catalog: Catalog) -> Mapping[str, NDArray[np.bool_]]:
        """Those of which nobody knows whom they show."""
        who = groups_of(catalog, self.identities).identity
        return {f"without {self._named}": np.asarray(who < 0, np.bool_)}

    def remarks(self, catalog: Catalog) -> Sequence[str]:
        """How many identities are in one record alone: others may be told from them."""
        alone = int(np.count_nonzero(groups_of(catalog, self.identities).alone))
        told = (
            f"{alone} of {len(catalog)} videos are the only one of theirs: they serve as negatives"
        )
        return [told] if alone else []

    def protocol(self) -> dict[str, Any]:
        """What is compared, as it is told beside every figure."""
        told = f"{self.test_clips} of one identity and as many of two for each video"
        return {"clips": self.test_clips, "crops": 1, "crop": "centre", "pairs": told}

    def plan(self, catalog: Catalog, stage: Stage, draw: Draw) -> Takes:
        """Pairs over the whole catalog; those of a test are the same for every run."""
        if stage == "train":
            return self.training_takes(catalog, draw)
        made = pairs_of_test(groups_of(catalog, self.identities), Draw(TEST_SEED), self.test_clips)
        view = self.views()["test"]
        if not len(made):  # one that is asked alone is embedded
            frames, fps = catalog.column("frames"), catalog.column("fps")
            return even_spans(frames, fps, view, self.test_clips)
        first = spans("test", made.first, catalog, view, Draw(TEST_SEED).apart("one"))
        return beside([first, seconds(made, catalog, view, Draw(TEST_SEED).apart("two"))])

    def training_takes(self, catalog: Catalog, draw: Draw) -> Takes:
        """A pair a record, of one identity or of two."""
        groups, view = groups_of(catalog, self.identities), self.views()["train"]
        made = training_pairs(groups, draw, same=self.same, alike=self.alike)
        if not len(made) or not (made.kind == KINDS.index(SAME)).any():
            raise self.lonely(catalog)
        first = spans("train", made.first, catalog, view, draw.apart("one"))
        return beside([first, seconds(made, catalog, view, draw.apart("two"))])

    def lonely(self, catalog: Catalog) -> PlanError:
        """What to say where there is nothing to compare."""
        return PlanError(
            f"{len(catalog)} videos without two of one {self.identities} beside one of another",
            "several of each of several",
            "give more videos, or set model.identities to the column that tells whom they show",
        )

    @property
    def _named(self) -> str:
        return "an identity" if self.identities == "identity" else "a label"

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """The frames of each span, apart by name; in training also who each is."""
        made = {
            f"rgb_{part}": np.asarray(streams["rgb"])
            for part, streams in zip(PARTS, decoded.streams, strict=False)
        }
        if decoded.stage == "train":
            who = [identity_number(record[self.identities]) for record in decoded.records]
            made["who"] = np.array(who, np.int64)
        return made

    def rule(self) -> "Rule":
        """Make what learns from embeddings, and what compares them."""
        raise NotImplementedError

    def build(self, info: Info) -> "torch.nn.Module":
        """Make the backbone, the embedding on top of it and the rule."""
        from clipmill_classify.frames import FrameEncoder
        from clipmill_similar.network import SimilarNetwork

        weights = None if info.restored else self.weights
        encoder = FrameEncoder(self.backbone, self.size, self.width, weights)
        return SimilarNetwork(encoder, self.embedding, self.rule())

    def answer(self, outputs: Sequence[Mapping[str, NDArray[Any]]], takes: Takes) -> dict[str, Any]:
        """The mean embedding, and the distance of each pair with its kind (a place in KINDS).

        Also with whom it was compared, as rows of the catalog, and the frames that either shows.
        """
        mean = np.mean([output["embedding"] for output in outputs], axis=0)
        if self.norm == "squared":  # back to where embeddings of single clips lie
            mean = mean / max(float(np.linalg.norm(mean)), 1e-12)
        told: dict[str, Any] = {"embedding": mean}
        if "distance" not in outputs[0]:
            return told
        names = [takes.views[view] for view in takes.view[:, 1].tolist()]
        kinds = np.array([KINDS.index(name) for name in names], np.int64)
        return {
            **told,
            "distances": np.array([o["distance"] for o in outputs]),
            "kinds": kinds,
            "others": takes.record[:, 1],
            "frames": takes.first,
        }

    def meter(self) -> Meter:
        """What measures distances of pairs."""
        return PairMeter(self.identities, self.norm)

    def verdict(self, metrics: Mapping[str, float]) -> str | None:
        """Whether anything was learnt: embeddings may all have come to lie in one place."""
        if metrics["auc"] >= LEARNT:
            return None
        return f"hardly anything was learnt: an AUC of {metrics['auc']:.3f}, and chance is 0.5"


def identity_number(name: Any) -> int:
    """A number that all records of an identity share, wherever they are decoded."""
    return int.from_bytes(hashlib.sha256(str(name).encode()).digest()[:7], "big")
