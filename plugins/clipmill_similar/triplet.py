"""Triplets: an anchor is nearer to its own than to another by a margin, or that is the loss.

Schroff et al., "FaceNet", 2015. Triplets are planned over the whole catalog, with stored hard
negatives where `data.negatives` names some; `mining` finds negatives for them among all that is in
the batch, of a worker where there are several.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from clipmill.plugin import Catalog, Draw, Takes, beside, triplets
from clipmill_similar.partners import PARTS, groups_of, spans
from clipmill_similar.similar import Similar

if TYPE_CHECKING:
    from clipmill_similar.network import Rule


class Triplet(Similar):
    """One encoder for three, max(d(anchor, positive) - d(anchor, negative) + margin, 0)."""

    name: ClassVar[str] = "triplet"
    paper: ClassVar[str] = "Schroff et al., FaceNet, 2015"

    margin: float = Field(
        0.2, gt=0, le=4, description="in squared distance, which 4 is the most of"
    )
    mining: Literal["random", "semi_hard", "hard"] = Field(
        "semi_hard",
        description="the planned negative, the nearest of the batch that is beyond the positive, "
        "or the nearest of all",
    )

    def training_takes(self, catalog: Catalog, draw: Draw) -> Takes:
        """A triplet for each record whose identity has another; the others serve as negatives."""
        groups, view = groups_of(catalog, self.identities), self.views()["train"]
        made = triplets(groups.identity, draw, negatives=catalog.negatives, records=groups.record)
        if not len(made):
            raise self.lonely(catalog)
        rows = (made.anchor, made.positive, made.negative)
        return beside(
            [
                spans("train", each, catalog, view, draw.apart(part))
                for part, each in zip(PARTS, rows, strict=True)
            ]
        )

    def rule(self) -> "Rule":
        """Make the triplet loss."""
        from clipmill_similar.network import Triplets

        return Triplets(self.margin, self.mining)
