"""Where in a picture its features lie: the maps of a 2D network before it averages over space.

Works on torchvision's convolutional networks, whose parts follow one another. Knows no task.

Legend: B batch, C channels, H height, W width, h and w places, D features, E embedding.
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from clipmill.errors import PluginError
from clipmill_classify.backbones import HEADS, UNFIT
from clipmill_classify.frames import FrameEncoder

TRUNKS = ("features", "layers", "trunk_output")  # parts that are parts one behind the other


def parts_before_pooling(network: nn.Module) -> Iterator[nn.Module]:
    """What a picture goes through, in order, as long as it has places."""
    for name, part in network.named_children():
        if name in HEADS or name == "avgpool":
            return
        yield from part.children() if name in TRUNKS else (part,)


def last_maps(network: nn.Module, x_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The last map of twice the last resolution, and the last map of all."""
    finer = x = x_BCHW
    for part in parts_before_pooling(network):
        before, x = x, part(x)
        if before.shape[-1] > x.shape[-1]:
            finer = before
    return finer, x


def empty_maps(encoder: FrameEncoder, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The maps of an empty picture, or why a backbone has none; its mode is left as it was."""
    training, weight = encoder.training, next(encoder.parameters())
    try:
        with torch.no_grad():
            empty = torch.zeros(1, 3, size, size, device=weight.device)
            finer, last = last_maps(encoder.eval().network, empty)
    except (*UNFIT, NotImplementedError, TypeError) as error:
        raise _without_places(" ".join(str(error).split())[:80]) from error
    finally:
        encoder.train(training)
    for found in (finer, last):
        if found.ndim != 4 or found.shape[2] != found.shape[3]:  # some have channels last
            raise _without_places(f"a map of it is {list(found.shape)}")
    if last.shape[1] != encoder.features:
        raise _without_places(f"its last map is {list(last.shape)}")
    return finer, last


def _without_places(reason: str) -> PluginError:
    return PluginError(
        f"this backbone gives no map of places ({reason})",
        "a convolutional network",
        "set model.backbone to resnet18, resnet50 or vgg16",
    )


class Places(nn.Module):
    """A vector of length 1 for each place, from the last two resolutions of a network.

    It knows where it is (Liu et al., An Intriguing Failing of Convolutional Networks, 2018): what
    is high up or far away may sound otherwise.
    """

    def __init__(self, finer: int, last: int, embedding: int) -> None:
        super().__init__()
        self.finer = nn.Conv2d(finer + 2, embedding, 1, bias=False)
        self.last = nn.Conv2d(last, embedding, 1, bias=False)
        self.norm = nn.BatchNorm2d(embedding)
        self.mixed = nn.Conv2d(embedding, embedding, 1, bias=False)
        # What all places have in common would leave nearly one vector for all.
        self.centred = nn.BatchNorm2d(embedding, affine=False)

    def forward(self, finer_BCHW: torch.Tensor, last_BDhw: torch.Tensor) -> torch.Tensor:
        """Vectors [B, E, H, W]."""
        wide = functional.interpolate(
            self.last(last_BDhw), finer_BCHW.shape[-2:], mode="bilinear", align_corners=False
        )
        placed = self.finer(torch.cat([finer_BCHW, where(finer_BCHW)], 1))
        x_BEHW = self.centred(self.mixed(functional.relu(self.norm(placed + wide))))
        return functional.normalize(x_BEHW.float(), dim=1)


def where(like_BCHW: torch.Tensor) -> torch.Tensor:
    """Row and column of each place of a map, from -1 to 1, [B, 2, H, W]."""
    height, width = like_BCHW.shape[-2:]
    rows = torch.linspace(-1, 1, height).to(like_BCHW).view(1, 1, -1, 1)
    columns = torch.linspace(-1, 1, width).to(like_BCHW).view(1, 1, 1, -1)
    both = [each.expand(len(like_BCHW), 1, height, width) for each in (rows, columns)]
    return torch.cat(both, 1)
