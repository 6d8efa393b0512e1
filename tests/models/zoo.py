"""Well-known architectures with random weights: nothing here comes from a hub.

Each entry gives (module in eval mode, example inputs). `small` keeps every kind of layer but few
of them, for the tests that always run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

Model = tuple[nn.Module, tuple[Tensor, ...]]


class Single(nn.Module):
    """A Hugging Face model with plain tensors in and one tensor out."""

    def __init__(self, model: nn.Module, output: str, **fixed: Any) -> None:
        super().__init__()
        self.model = model
        self.output = output
        self.fixed = fixed

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = getattr(self.model(x, **self.fixed), self.output)
        return result


def _image(size: int) -> tuple[Tensor]:
    return (torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1)),)


def _ids(vocabulary: int, length: int) -> tuple[Tensor]:
    return (torch.randint(0, vocabulary, (1, length), generator=torch.Generator().manual_seed(1)),)


def _settle(module: nn.Module) -> nn.Module:
    """Eval mode, with batch-norm statistics and affine weights that are neither 0 nor 1."""
    rng = torch.Generator().manual_seed(2)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            assert m.running_mean is not None
            assert m.running_var is not None
            m.running_mean.normal_(0, 0.1, generator=rng)
            m.running_var.uniform_(0.5, 1.5, generator=rng)
            with torch.no_grad():
                m.weight.uniform_(0.5, 1.5, generator=rng)
                m.bias.normal_(0, 0.1, generator=rng)
    return module.eval()


class Residual(nn.Module):
    """ResNet's blocks ("Deep Residual Learning", He et al. 2015): basic, or bottleneck with expansion 4."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = width * 4 if bottleneck else width
        kernels = ((1, 1), (3, stride), (1, 1)) if bottleneck else ((3, stride), (3, 1))
        widths = [inputs, width, width, outputs] if bottleneck else [inputs, width, outputs]
        layers: list[nn.Module] = []
        for i, (k, s) in enumerate(kernels):
            layers.append(nn.Conv2d(widths[i], widths[i + 1], k, s, k // 2, bias=False))
            layers.append(nn.BatchNorm2d(widths[i + 1]))
            layers.append(nn.ReLU())
        self.body = nn.Sequential(*layers[:-1])
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def _resnet(blocks: tuple[int, ...], bottleneck: bool, base: int, size: int) -> Model:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, base, 7, 2, 3, bias=False), nn.BatchNorm2d(base), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    inputs = base
    for stage, count in enumerate(blocks):
        width = base << stage
        for i in range(count):
            layers.append(Residual(inputs, width, 2 if stage and i == 0 else 1, bottleneck))
            inputs = width * 4 if bottleneck else width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000)]
    return _settle(nn.Sequential(*layers)), _image(size)


def resnet18(small: bool = False) -> Model:
    return _resnet((1, 1), False, 16, 64) if small else _resnet((2, 2, 2, 2), False, 64, 224)


def resnet50(small: bool = False) -> Model:
    return _resnet((1, 1), True, 8, 64) if small else _resnet((3, 4, 6, 3), True, 64, 224)


class SqueezeExcite(nn.Module):
    """Channels gated by their own means."""

    def __init__(self, channels: int, squeezed: int, act: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            act(),
            nn.Conv2d(squeezed, channels, 1),
            gate(),
        )

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = x * self.gate(x)
        return scaled


class InvertedResidual(nn.Module):
    """MobileNet's block: expand, depthwise, optionally squeeze-excite, project."""

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        kernel: int,
        stride: int,
        act: type[nn.Module],
        squeezed: int = 0,
        gate: type[nn.Module] = nn.Sigmoid,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers += [nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), act()]
        layers += [nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False)]
        layers += [nn.BatchNorm2d(hidden), act()]
        if squeezed:
            layers.append(SqueezeExcite(hidden, squeezed, nn.ReLU if gate is nn.Hardsigmoid else act, gate))
        layers += [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.body = nn.Sequential(*layers)
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.skip else y


def _mobile(
    stem: int,
    act: type[nn.Module],
    blocks: list[nn.Module],
    last: tuple[int, int],
    head: list[nn.Module],
    size: int,
) -> Model:
    layers: list[nn.Module] = [nn.Conv2d(3, stem, 3, 2, 1, bias=False), nn.BatchNorm2d(stem), act(), *blocks]
    layers += [nn.Conv2d(last[0], last[1], 1, bias=False), nn.BatchNorm2d(last[1]), act()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head]
    return _settle(nn.Sequential(*layers)), _image(size)


def mobilenet_v2(small: bool = False) -> Model:
    """MobileNetV2 (Sandler et al. 2018), table 2."""
    torch.manual_seed(0)
    rows = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    rows = [(1, 16, 1, 1), (6, 24, 2, 2)] if small else rows
    blocks: list[nn.Module] = []
    inputs = 32
    for expand, outputs, count, stride in rows:
        for i in range(count):
            s = stride if i == 0 else 1
            blocks.append(InvertedResidual(inputs, inputs * expand, outputs, 3, s, nn.ReLU6))
            inputs = outputs
    head: list[nn.Module] = [nn.Linear(1280, 1000)]
    return _mobile(32, nn.ReLU6, blocks, (inputs, 1280), head, 64 if small else 224)


def mobilenet_v3(small: bool = False) -> Model:
    """MobileNetV3-Large (Howard et al. 2019), table 1."""
    torch.manual_seed(0)
    rows = [
        (3, 16, 16, 0, "re", 1), (3, 64, 24, 0, "re", 2), (3, 72, 24, 0, "re", 1),
        (5, 72, 40, 24, "re", 2), (5, 120, 40, 32, "re", 1), (5, 120, 40, 32, "re", 1),
        (3, 240, 80, 0, "hs", 2), (3, 200, 80, 0, "hs", 1), (3, 184, 80, 0, "hs", 1),
        (3, 184, 80, 0, "hs", 1), (3, 480, 112, 120, "hs", 1), (3, 672, 112, 168, "hs", 1),
        (5, 672, 160, 168, "hs", 2), (5, 960, 160, 240, "hs", 1), (5, 960, 160, 240, "hs", 1),
    ]  # fmt: skip
    rows = [rows[0], rows[3], rows[6]] if small else rows
    blocks: list[nn.Module] = []
    inputs = 16
    for kernel, hidden, outputs, squeezed, act, stride in rows:
        activation = nn.ReLU if act == "re" else nn.Hardswish
        blocks.append(
            InvertedResidual(inputs, hidden, outputs, kernel, stride, activation, squeezed, nn.Hardsigmoid)
        )
        inputs = outputs
    head: list[nn.Module] = [nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, 1000)]
    return _mobile(16, nn.Hardswish, blocks, (inputs, 960), head, 64 if small else 224)


def efficientnet_b0(small: bool = False) -> Model:
    """EfficientNet-B0 (Tan and Le 2019), table 1."""
    torch.manual_seed(0)
    rows = [
        (1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2),
        (6, 5, 112, 3, 1), (6, 5, 192, 4, 2), (6, 3, 320, 1, 1),
    ]  # fmt: skip
    rows = [rows[0], rows[2]] if small else rows
    blocks: list[nn.Module] = []
    inputs = 32
    for expand, kernel, outputs, count, stride in rows:
        for i in range(count):
            s = stride if i == 0 else 1
            hidden, squeezed = inputs * expand, max(1, inputs // 4)
            blocks.append(InvertedResidual(inputs, hidden, outputs, kernel, s, nn.SiLU, squeezed))
            inputs = outputs
    return _mobile(32, nn.SiLU, blocks, (inputs, 1280), [nn.Linear(1280, 1000)], 64 if small else 224)


class ConvNextBlock(nn.Module):
    """ConvNeXt's block (Liu et al. 2022), channels last inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.mlp(self.norm(y)) * self.scale
        return x + y.permute(0, 3, 1, 2)


class NormFirst(nn.Module):
    """Layer norm over the channels of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return y


def convnext_tiny(small: bool = False) -> Model:
    torch.manual_seed(0)
    depths, widths, size = ((1, 1), (16, 32), 64) if small else ((3, 3, 9, 3), (96, 192, 384, 768), 224)
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), NormFirst(widths[0])]
    for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        if i:
            layers += [NormFirst(widths[i - 1]), nn.Conv2d(widths[i - 1], width, 2, 2)]
        layers += [ConvNextBlock(width) for _ in range(depth)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], 1000)]
    return nn.Sequential(*layers).eval(), _image(size)


def vit_b16(small: bool = False) -> Model:
    torch.manual_seed(0)
    tiny = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    size = 64 if small else 224
    config = hf.ViTConfig(image_size=size, **(tiny if small else {}))
    return Single(hf.ViTForImageClassification(config).eval(), "logits"), _image(size)


def swin_t(small: bool = False) -> Model:
    torch.manual_seed(0)
    tiny = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    size = 64 if small else 224
    config = hf.SwinConfig(image_size=size, **(tiny if small else {}))
    return Single(hf.SwinForImageClassification(config).eval(), "logits"), _image(size)


def bert_base(small: bool = False) -> Model:
    torch.manual_seed(0)
    tiny = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = hf.BertConfig(**(tiny if small else {}))
    model = hf.BertModel(config, add_pooling_layer=False).eval()
    return Single(model, "last_hidden_state"), _ids(config.vocab_size, 16 if small else 128)


def gpt2(small: bool = False) -> Model:
    torch.manual_seed(0)
    config = hf.GPT2Config(**({"n_embd": 32, "n_layer": 2, "n_head": 4} if small else {}))
    model = hf.GPT2LMHeadModel(config).eval()
    return Single(model, "logits", use_cache=False), _ids(config.vocab_size, 16 if small else 64)


def llama_small(small: bool = False) -> Model:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2} if small else {
        "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8,
    }  # fmt: skip
    config = hf.LlamaConfig(vocab_size=4000, num_attention_heads=8, num_key_value_heads=2, **size)
    model = hf.LlamaForCausalLM(config).eval()
    return Single(model, "logits", use_cache=False), _ids(config.vocab_size, 16 if small else 64)


class EncodeDecode(nn.Module):
    """T5: encode, then one decoder pass over given ids."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, decoder_ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=ids, decoder_input_ids=decoder_ids, use_cache=False).logits
        return logits


def t5_small(small: bool = False) -> Model:
    torch.manual_seed(0)
    tiny = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    config = hf.T5Config(**(tiny if small else {}))
    model = hf.T5ForConditionalGeneration(config).eval()
    ids = _ids(config.vocab_size, 12)[0]
    return EncodeDecode(model), (ids, ids[:, :5].contiguous())


def whisper_encoder(small: bool = False) -> Model:
    torch.manual_seed(0)
    tiny = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64}
    tiny |= {"decoder_layers": 1, "decoder_attention_heads": 4}
    frames = 100 if small else 1500
    config = hf.WhisperConfig(max_source_positions=frames, **(tiny if small else {}))
    model = hf.WhisperModel(config).get_encoder().eval()
    mel = torch.randn(1, config.num_mel_bins, 2 * frames, generator=torch.Generator().manual_seed(1))
    return Single(model, "last_hidden_state"), (mel * math.sqrt(0.5),)


ZOO: dict[str, Callable[..., Model]] = {
    f.__name__: f
    for f in (
        resnet18,
        resnet50,
        mobilenet_v2,
        mobilenet_v3,
        efficientnet_b0,
        convnext_tiny,
        vit_b16,
        swin_t,
        bert_base,
        gpt2,
        llama_small,
        t5_small,
        whisper_encoder,
    )
}
