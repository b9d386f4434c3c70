"""2D image networks as frame encoders: torchvision's own, without their last layers.

Knows neither clips nor classes: a frame goes in, a vector of features comes out. Narrow variants
are the same networks with fewer channels. Weights come from a file, never from the network.
"""

from collections.abc import Callable, Iterator
from functools import partial
from math import gcd
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models

from clipmill.errors import PluginError

HEADS = ("fc", "classifier", "heads", "head")
# What a family must be told beside the number of classes, given the size of the frames.
ARGUMENTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "googlenet": lambda size: {"aux_logits": False, "init_weights": False},
    "inception_v3": lambda size: {"aux_logits": False, "init_weights": False},
    "maxvit_t": lambda size: {"input_size": (size, size)},
    "vit": lambda size: {"image_size": size},
}


LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)  # what can be made narrower


class Pooled(nn.Module):
    """Stands where the classifier was: averages what space is left."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of each frame, as a vector."""
        return x.mean((2, 3)) if x.ndim == 4 else x


def names() -> list[str]:
    """The image networks there are."""
    return list(models.list_models(module=models))


def frame_encoder(
    name: str, size: int, width: float = 1.0, weights: str | None = None
) -> tuple[nn.Module, int]:
    """Make the encoder of `size` x `size` frames; return it with its number of features."""
    if name not in names():
        raise PluginError(f"no backbone {name!r}", f"one of {', '.join(names())}")
    try:
        encoder = _narrow(name, size, width) if width != 1 else beheaded(_model(name, size))
        features = _run(encoder, size).shape[1]
    except PluginError:
        raise
    except (
        AssertionError,
        RuntimeError,
        ValueError,
    ) as error:  # torchvision has no error of its own
        raise PluginError(
            f"backbone {name!r} cannot take frames of {size} x {size} at width {width} ({error})",
            todo="choose another size, or resnet18, which takes nearly any",
        ) from error
    if weights is not None:
        load_weights(encoder, weights)
    return encoder, features


def _narrow(name: str, size: int, width: float) -> nn.Module:
    """Narrow the network before it has memory: the wide one is never drawn."""
    wished = torch.get_default_device()
    with torch.device("meta"):
        encoder = narrowed(beheaded(_model(name, size)), width, size)
    return encoder.to_empty(device=wished).apply(initialise)


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


def narrowed(model: nn.Module, width: float, size: int = 224) -> nn.Module:
    """Multiply all channels by `width`, in place, and draw the weights anew.

    Every layer gives its share of channels and takes what really arrives, which one pass over
    an empty frame tells: so sums, concatenations and splits of channels stay in step.
    """
    strange = sorted({type(part).__name__ for part in _strange(model)})
    if strange:
        raise PluginError(
            f"a network with {', '.join(strange)} cannot be narrowed",
            "only convolutions, batch norms and linear layers with weights",
            "use width 1, or a backbone such as resnet18 or mobilenet_v2",
        )
    layers = [part for part in model.modules() if isinstance(part, LAYERS)]
    hooks = [part.register_forward_pre_hook(partial(_fit, width)) for part in layers]
    _run(model, size)
    for hook in hooks:
        hook.remove()
    return model.apply(initialise)


def scaled(channels: int, width: float) -> int:
    """Channels in multiples of four where there are that many, for splits and grouped layers."""
    share = channels * width
    return max(4, 4 * round(share / 4)) if channels >= 4 else channels


def initialise(module: nn.Module) -> None:
    """He et al., 2015, for layers followed by ReLU."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if isinstance(module, nn.BatchNorm2d):
        module.reset_parameters()
    elif isinstance(module, LAYERS) and module.bias is not None:
        nn.init.zeros_(module.bias)


def load_weights(encoder: nn.Module, path: str) -> None:
    """Fill an encoder from a file of its weights; those of the classifier are left aside."""
    given = {name.removeprefix("module."): w for name, w in _read(path).items()}
    given = {
        name: w for name, w in given.items() if name.split(".")[0] not in (*HEADS, "AuxLogits")
    }
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


def _run(model: nn.Module, size: int) -> torch.Tensor:
    """The features of one empty frame; a network's mode is left as it was."""
    training = model.training
    device = next(model.parameters()).device
    with torch.no_grad():
        features: torch.Tensor = model.eval()(torch.zeros(1, 3, size, size, device=device))
    model.train(training)
    return features


def _strange(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        own = next(module.parameters(recurse=False), None)
        if own is not None and not isinstance(module, LAYERS):
            yield module


def _fit(width: float, layer: nn.Module, arguments: tuple[torch.Tensor]) -> None:
    """Give a layer its share of channels, for as many as really arrive."""
    arriving = arguments[0].shape[1]
    match layer:
        case nn.Conv2d():
            _fit_convolution(layer, arriving, width)
        case nn.Linear():
            layer.in_features, layer.out_features = arriving, scaled(layer.out_features, width)
            _resize(layer, "weight", layer.out_features, arriving)
            _resize(layer, "bias", layer.out_features)
        case nn.BatchNorm2d():
            layer.num_features = arriving
            for part in ("weight", "bias", "running_mean", "running_var"):
                _resize(layer, part, arriving)


def _fit_convolution(conv: nn.Conv2d, arriving: int, width: float) -> None:
    if 1 < conv.groups == conv.in_channels:  # a depthwise layer stays one
        conv.out_channels = arriving * (conv.out_channels // conv.in_channels)
        conv.groups = arriving
    else:
        conv.out_channels = scaled(conv.out_channels, width)
        conv.groups = gcd(conv.groups, arriving, conv.out_channels)
    conv.in_channels = arriving
    _resize(conv, "weight", conv.out_channels, arriving // conv.groups, *conv.kernel_size)
    _resize(conv, "bias", conv.out_channels)


def _resize(module: nn.Module, part: str, *shape: int) -> None:
    old = getattr(module, part)
    if old is None:
        return
    new = old.new_zeros(shape)
    setattr(module, part, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
