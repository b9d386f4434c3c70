"""The siamese network: pairs of one identity are drawn together, others pushed beyond a margin.

Chopra et al., "Learning a Similarity Metric Discriminatively", 2005, on the squared distance d of
embeddings of length 1: d for pairs of one identity, max(margin - d, 0) for pairs of two. Two are
one identity up to a threshold, which the validation chooses.
"""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from clipmill_similar.similar import Similar

if TYPE_CHECKING:
    from clipmill_similar.network import Rule


class Siamese(Similar):
    """One encoder for both, a contrastive loss on the squared distance."""

    name: ClassVar[str] = "siamese"
    paper: ClassVar[str] = "Chopra et al., Learning a Similarity Metric Discriminatively, 2005"

    margin: float = Field(
        1.0, gt=0, le=4, description="in squared distance, which 4 is the most of"
    )

    def rule(self) -> "Rule":
        """Make the contrastive loss."""
        from clipmill_similar.network import Contrastive

        return Contrastive(self.margin)
