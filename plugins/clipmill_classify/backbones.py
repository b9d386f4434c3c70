"""2D image networks as frame encoders: torchvision's own, without their last layers.

Knows neither clips nor classes: a frame goes in, a vector of features comes out. Narrow variants
are the same networks with fewer channels. Weights come from a file, never from the network.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models

from clipmill.errors import PluginError
from clipmill_classify.narrow import Undrawn, initialise, narrowed, run_empty

COLOURS = 3
HEADS = ("fc", "classifier", "heads", "head")
SIDES = ("aux1", "aux2", "AuxLogits")  # heads that only training had
UNFIT = (AssertionError, RuntimeError, ValueError)  # torchvision has no error of its own
# What a family must be told beside the number of classes, given the size of the frames.
ARGUMENTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "googlenet": lambda size: {"aux_logits": False, "init_weights": False},
    "inception_v3": lambda size: {"aux_logits": False, "init_weights": False},
    "maxvit_t": lambda size: {"input_size": (size, size)},
    "vit": lambda size: {"image_size": size},
}


class Pooled(nn.Module):
    """Stands where the classifier was: averages what space is left."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of each frame, as a vector."""
        return x.mean((2, 3)) if x.ndim == 4 else x


def names() -> list[str]:
    """The image networks there are."""
    return list(models.list_models(module=models))


def frame_encoder(
    name: str, size: int, width: float = 1.0, weights: str | None = None, in_channels: int = 3
) -> tuple[nn.Module, int]:
    """Make the encoder of `size` x `size` frames; return it with its number of features.

    Frames may be of other channels than colours: the weights are those for colours, averaged.
    """
    if name not in names():
        raise PluginError(f"no backbone {name!r}", f"one of {', '.join(names())}")
    try:
        encoder = _narrow(name, size, width) if width != 1 else beheaded(_model(name, size))
        features = run_empty(encoder, (3, size, size)).shape[1]
    except PluginError:
        raise
    except UNFIT as error:
        raise PluginError(
            f"backbone {name!r} cannot take frames of {size} x {size} at width {width} ({error})",
            todo="choose another size, or resnet18, which takes nearly any",
        ) from error
    if weights is not None:
        load_weights(encoder, weights)
    if in_channels != COLOURS:
        learnt = None if weights is None else averaged(stem_of(encoder)[1].weight, in_channels)
        take_channels(encoder, in_channels, learnt)
    return encoder, features


def take_channels(encoder: nn.Module, channels: int, learnt: torch.Tensor | None) -> None:
    """Let the first convolution take other channels than colours, in place.

    Its weights are those given, or drawn anew.
    """
    place, old = stem_of(encoder)
    new = nn.Conv2d(
        channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None, device=old.weight.device,
    )  # fmt: skip
    initialise(new)
    if learnt is not None:
        new.weight.data.copy_(learnt)
        new.bias = old.bias
    encoder.set_submodule(place, new)


def stem_of(encoder: nn.Module) -> tuple[str, nn.Conv2d]:
    """The convolution that sees the colours, with its place."""
    return next(
        (name, part)
        for name, part in encoder.named_modules()
        if isinstance(part, nn.Conv2d) and part.in_channels == COLOURS
    )


def averaged(colours: torch.Tensor, channels: int) -> torch.Tensor:
    """Weights of a first layer for other channels (Wang et al., Towards Good Practices, 2015)."""
    return colours.mean(1, keepdim=True).expand(-1, channels, -1, -1)


def _narrow(name: str, size: int, width: float) -> nn.Module:
    """Narrow the network before it has weights: the wide one is never drawn."""
    with Undrawn():
        wide = beheaded(_model(name, size))
    return narrowed(wide, width, (3, size, size))


def _model(name: str, size: int) -> nn.Module:
    extra = next((make(size) for start, make in ARGUMENTS.items() if name.startswith(start)), {})
    wished = torch.get_default_device()
    # The builder of regnets calculates widths with tensors, which cannot be on meta.
    with torch.device("cpu" if name.startswith("regnet") else wished):
        model: nn.Module = models.get_model(name, weights=None, **extra)
    return model.to(wished)


def beheaded(model: nn.Module) -> nn.Module:
    """Take the classifier away, in place, and average over space where it looked at places."""
    head = next(name for name in HEADS if hasattr(model, name))
    setattr(model, head, Pooled())
    if isinstance(getattr(model, "avgpool", None), nn.AdaptiveAvgPool2d):
        model.avgpool = nn.AdaptiveAvgPool2d(1)
    return model


def load_weights(encoder: nn.Module, path: str) -> None:
    """Fill an encoder from a file of its weights; those of the classifier are left aside."""
    given = {name.removeprefix("module."): w for name, w in _read(path).items()}
    given = {name: w for name, w in given.items() if name.split(".")[0] not in (*HEADS, *SIDES)}
    wanted = encoder.state_dict()
    wrong = sorted(
        name
        for name in given.keys() | wanted.keys()
        if name not in given or name not in wanted or given[name].shape != wanted[name].shape
    )
    if wrong:
        raise PluginError(
            f"{path} does not fit the backbone: {len(wrong)} tensors differ, first {wrong[0]}",
            f"the {len(wanted)} tensors of this backbone at this width",
        )
    encoder.load_state_dict(given)


def _read(path: str) -> dict[str, torch.Tensor]:
    if not Path(path).is_file():
        raise PluginError(f"no file of weights {path}", "a .safetensors or .pt file")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has errors of its own, and the file is a stranger's
        reason = str(error).split(".")[0]
        raise PluginError(
            f"{path} cannot be read as weights ({reason})", "tensors by name"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(w, torch.Tensor) for w in state.values()):
        raise PluginError(f"{path} holds no table of tensors", "a state dict")
    return state
