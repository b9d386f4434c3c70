"""Frame descriptors: what a 2D network makes of each frame, pooled over time, and an SVM on top.

The simplest use of a network that was trained elsewhere: features off the shelf (Razavian et al.,
2014). Blind to the order of frames. The encoder never learns, so frames are best described once:
`clipmill features` makes a dataset of them.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from clipmill.plugin import Augmentation, Info, Place, View
from clipmill_classify.classifier import Classifier
from clipmill_classify.labels import Labels

if TYPE_CHECKING:
    import torch

    from clipmill_classify.frames import FrameEncoder
    from clipmill_classify.network import ClipNetwork
    from clipmill_classify.sequence_network import Given


class FrameDescriptors(Classifier):
    """Features of frames, pooled into one description of a clip, and a linear SVM."""

    name: ClassVar[str] = "frame_descriptors"
    paper: ClassVar[str] = (
        "Razavian et al., CNN Features off-the-shelf: an Astounding Baseline for Recognition, 2014"
    )
    label_kinds: ClassVar[tuple[Labels, ...]] = ("one",)
    by_gradient: ClassVar[bool] = False
    exports: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {"width": 0.125, "frames": 4, "size": 32, "resize": 36}

    backbone: str = Field("resnet18", description="any 2D image network of torchvision, by name")
    width: float = Field(1.0, gt=0, le=4, description="multiplies the backbone's channels")
    size: int = Field(112, ge=32, description="height and width of the frames, in pixels")
    resize: int = Field(128, ge=32, description="short side before the crop, in pixels")
    weights: Place | None = Field(None, description="file of backbone weights; nothing is fetched")
    features: int | None = Field(
        None,
        ge=1,
        description="numbers a frame of a dataset of features, which is then what is seen; the "
        "backbone is not made",
    )
    pool: Literal["max", "min", "mean", "max-min"] = Field(
        "max-min", description="of each feature over all frames; max-min is both, side by side"
    )
    c: float = Field(1.0, gt=0, description="what an error counts against a wide margin")
    augment: tuple[Augmentation, ...] = Field((), description="of the frames that it learns from")

    @model_validator(mode="after")
    def _is_a_machine(self) -> Self:
        if {"mixup", "cutmix"} & set(self.augment):
            raise ValueError("augment without mixup and cutmix: an SVM learns one class a clip")
        if self.label_smoothing or self.class_weights or self.rates:
            raise ValueError("no label_smoothing, class_weights and rates: nothing has a gradient")
        return self

    def views(self) -> Mapping[str, View]:
        """A clip's frames, or what was computed of them before."""
        made = super().views()
        if self.features is None:
            return made
        seen = {"streams": ("features",), "features": self.features}
        return {name: view.model_copy(update=seen) for name, view in made.items()}

    def network(self, info: Info, classes: int) -> "ClipNetwork":
        """Make the encoder and an SVM that has learned nothing yet."""
        from clipmill_classify.frame_descriptors_network import DescriptorNetwork

        return DescriptorNetwork(self._encoder(info), self.pool, classes)

    def fit(self, model: "torch.nn.Module", batches: Iterable[Mapping[str, Any]]) -> None:
        """Describe all clips, then find the SVM that tells their classes apart."""
        from clipmill_classify.frame_descriptors_network import learn

        learn(model, batches, self.c)

    def _encoder(self, info: Info) -> "FrameEncoder | Given":
        from clipmill_classify.frames import FrameEncoder
        from clipmill_classify.sequence_network import Given

        if self.features is not None:
            return Given(self.features)
        weights = None if info.restored else self.weights
        return FrameEncoder(self.backbone, self.size, self.width, weights)
