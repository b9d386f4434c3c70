"""Narrow variants of torchvision's networks: the same layers with a share of their channels.

Works on convolutions, batch norms and linear layers, of pictures and of clips alike. Knows no
network by name.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from math import gcd
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from clipmill.errors import PluginError

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
LAYERS = (*CONVOLUTIONS, *NORMS, nn.Linear)  # what can be made narrower
DRAWS = frozenset({
    nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_,
    torch.Tensor.uniform_, torch.Tensor.normal_,
})  # fmt: skip


class Undrawn(TorchFunctionMode):
    """Within it layers are made and their weights not drawn: a wide network costs no time.

    Memory that is never written to is not taken either. Quicker by far than the meta device,
    whose every operation goes through Python.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Leave a tensor as it is where its values would be drawn."""
        if func in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def narrowed(model: nn.Module, width: float, shape: Sequence[int]) -> nn.Module:
    """Multiply all channels by `width`, in place, and draw the weights anew.

    Every layer gives its share of channels and takes what really arrives, which one pass over
    an empty input of that shape tells: so sums, concatenations and splits stay in step.
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
    run_empty(model, shape)
    for hook in hooks:
        hook.remove()
    return model.apply(initialise)


def run_empty(model: nn.Module, shape: Sequence[int]) -> torch.Tensor:
    """The output for one empty input; a network's mode is left as it was."""
    training = model.training
    device = next(model.parameters()).device
    with torch.no_grad():
        output: torch.Tensor = model.eval()(torch.zeros(1, *shape, device=device))
    model.train(training)
    return output


def scaled(channels: int, width: float) -> int:
    """Channels in multiples of four where there are that many, for splits and grouped layers."""
    share = channels * width
    return max(4, 4 * round(share / 4)) if channels >= 4 else channels


def initialise(module: nn.Module) -> None:
    """He et al., 2015, for layers followed by ReLU."""
    if isinstance(module, CONVOLUTIONS):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if isinstance(module, NORMS):
        module.reset_parameters()
    elif isinstance(module, LAYERS) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _strange(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        own = next(module.parameters(recurse=False), None)
        if own is not None and not isinstance(module, LAYERS):
            yield module


def _fit(width: float, layer: nn.Module, arguments: tuple[torch.Tensor]) -> None:
    """Give a layer its share of channels, for as many as really arrive."""
    arriving = arguments[0].shape[1]
    match layer:
        case nn.Conv2d() | nn.Conv3d():
            _fit_convolution(layer, arriving, width)
        case nn.Linear():
            layer.in_features, layer.out_features = arriving, scaled(layer.out_features, width)
            _resize(layer, "weight", layer.out_features, arriving)
            _resize(layer, "bias", layer.out_features)
        case nn.BatchNorm2d() | nn.BatchNorm3d():
            layer.num_features = arriving
            for part in ("weight", "bias", "running_mean", "running_var"):
                _resize(layer, part, arriving)


def _fit_convolution(conv: nn.Conv2d | nn.Conv3d, arriving: int, width: float) -> None:
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
