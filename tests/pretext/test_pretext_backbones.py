"""Backbones of pretexts of frames in segmenters and similarity encoders, by the tensors' names."""

from typing import Any

import pytest
import torch

from clipmill import infer, plugin, transfer
from clipmill.errors import RunError
from clipmill.transfer import network

SOURCES: dict[str, dict[str, Any]] = {
    "audio_visual": {"size": 64, "resize": 64},
    "motion_foreground": {"size": 64, "resize": 64},
    "temporal_coherence": {"size": 64, "resize": 64},
    "temporal_order": {"size": 64, "resize": 64, "task": "verify"},
}
TAKERS: dict[str, dict[str, Any]] = {
    "binary_similarity": {},
    "fcn": {"backbone": "resnet18", "head": 16},
    "mask_rcnn": {"backbone": "resnet18"},
    "siamese": {},
    "triplet": {},
}
OF_THEIR_OWN = ("enet", "segnet", "unet")  # encoders that no other family has
CLASSES = ("a", "b")
WIDTH = 0.25


def drawn(name: str, **fields: Any) -> tuple[plugin.Plugin, dict[str, torch.Tensor]]:
    """A pretext, and a network of it as drawn by chance."""
    torch.manual_seed(1)
    made = plugin.make(name, {"width": WIDTH, **fields})
    return made, dict(infer.build(made, ()).state_dict())


def taker_of(source: plugin.Plugin, name: str) -> plugin.Plugin:
    """What `transfer` and a recipe would make of it, with the pretext's width and size."""
    _, fields = network.downstream(source, name)
    return plugin.make(name, {**fields, **TAKERS.get(name, {}), "width": WIDTH})


@pytest.mark.parametrize("name", TAKERS)
@pytest.mark.parametrize("source", SOURCES)
def test_the_whole_backbone_goes_to_segmenters_and_similarity(source: str, name: str) -> None:
    pretext, weights = drawn(source, **SOURCES[source])
    taker = taker_of(pretext, name)
    fit = transfer.fitted(source, weights, taker, CLASSES)
    torch.manual_seed(2)
    module = infer.build(taker, CLASSES)
    backbone = {key for key in module.state_dict() if key.startswith("encoder.")}
    assert backbone and set(fit.weights) == backbone and fit.learning
    module.load_state_dict({**module.state_dict(), **fit.weights})
    given = {key: value for key, value in weights.items() if key.startswith("encoder.")}
    assert given.keys() == backbone
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in given.items())


@pytest.mark.parametrize("name", OF_THEIR_OWN)
def test_encoders_of_their_own_take_none_and_say_so(name: str) -> None:
    _, weights = drawn("motion_foreground", **SOURCES["motion_foreground"])
    taker = plugin.make(name, dict(plugin.load(name).small))
    with pytest.raises(RunError, match=f"none of the .* fits {name}"):
        transfer.fitted("motion_foreground", weights, taker, CLASSES)
