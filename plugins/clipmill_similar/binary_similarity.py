"""Binary similarity: a classifier on |f(x1) - f(x2)| says whether two are of one identity.

Taigman et al., "DeepFace", 2014; Koch et al., "Siamese Neural Networks for One-shot Image
Recognition", 2015. Its distance is the sum of what differs, each number by its weight.
"""

from typing import TYPE_CHECKING, ClassVar

from clipmill_similar.recognition import Norm
from clipmill_similar.similar import Similar

if TYPE_CHECKING:
    from clipmill_similar.network import Rule


class BinarySimilarity(Similar):
    """One encoder for both, a linear classifier on how much each of their numbers differs."""

    name: ClassVar[str] = "binary_similarity"
    paper: ClassVar[str] = "Koch et al., Siamese Neural Networks for One-shot Recognition, 2015"
    norm: ClassVar[Norm] = "absolute"

    def rule(self) -> "Rule":
        """Make the classifier."""
        from clipmill_similar.network import Binary

        return Binary(self.embedding)
