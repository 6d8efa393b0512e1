"""Well-known architectures with random weights, in eval mode, with example inputs.

Each function takes `small`: the same layers, fewer and narrower, on a smaller input. Weights are
seeded. Networks with batch normalization get statistics of random images, so that activations keep
their scale through the net, as in a trained one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Model(NamedTuple):
    """A module in eval mode and inputs to trace it with."""

    module: nn.Module
    inputs: tuple[Tensor, ...] | Mapping[str, Tensor]


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _ids(vocabulary: int, *shape: int) -> Tensor:
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(1))


def _settle(module: nn.Module, image: int) -> nn.Module:
    """Gives every batch normalization a random scale and shift and the statistics of random images."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    generator = torch.Generator().manual_seed(2)
    for m in norms:
        nn.init.uniform_(m.weight, 0.8, 1.2, generator=generator)
        nn.init.normal_(m.bias, 0.0, 0.1, generator=generator)
        # The last batch's statistics, whole.
        m.momentum = 1.0
        m.train()
    with torch.no_grad():
        module(torch.randn(4, 3, image, image, generator=generator))
    return module.eval()


class Logits(nn.Module):
    """An image classifier of transformers as images to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values).logits
        return logits


def _images(build: Callable[[], nn.Module], image: int, *, settle: bool) -> Model:
    module = _seeded(lambda: Logits(build()))
    if settle:
        for m in module.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, generator=torch.Generator().manual_seed(3))
        module = _settle(module, image)
    return Model(module, (_normal(1, 3, image, image),))


def resnet18(small: bool = False) -> Model:
    """He et al., "Deep Residual Learning for Image Recognition", 2015."""
    from transformers import ResNetConfig, ResNetForImageClassification

    widths, depths = ([64, 128, 256, 512], [2, 2, 2, 2]) if not small else ([8, 16, 24, 32], [1, 1, 1, 1])
    config = ResNetConfig(
        embedding_size=widths[0], hidden_sizes=widths, depths=depths, layer_type="basic", num_labels=1000
    )
    return _images(lambda: ResNetForImageClassification(config), 64 if small else 224, settle=True)


def resnet50(small: bool = False) -> Model:
    """The same with bottlenecks (version 1.5: the stride in the 3 x 3 convolution)."""
    from transformers import ResNetConfig, ResNetForImageClassification

    widths, depths = ([256, 512, 1024, 2048], [3, 4, 6, 3]) if not small else ([32, 48, 64, 96], [1, 2, 1, 1])
    config = ResNetConfig(
        embedding_size=16 if small else 64, hidden_sizes=widths, depths=depths, num_labels=1000
    )
    return _images(lambda: ResNetForImageClassification(config), 64 if small else 224, settle=True)


def mobilenet_v2(small: bool = False) -> Model:
    """Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(
        depth_multiplier=0.25 if small else 1.0,
        tf_padding=False,
        num_labels=1000,
        classifier_dropout_prob=0.0,
    )
    return _images(lambda: MobileNetV2ForImageClassification(config), 64 if small else 224, settle=True)


class SqueezeExcite(nn.Module):
    """Scales channels by what their means tell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(8, (channels // 4 + 4) // 8 * 8)
        self.reduce = nn.Conv2d(channels, inner, 1)
        self.expand = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(gate)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; with a shortcut where shapes agree."""

    def __init__(
        self, channels: int, kernel: int, inner: int, out: int, excite: bool, swish: bool, stride: int
    ) -> None:
        super().__init__()

        def activation() -> nn.Module:
            return nn.Hardswish() if swish else nn.ReLU(inplace=True)

        layers: list[nn.Module] = []
        if inner != channels:
            layers += [nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), activation()]
        depthwise = nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False)
        layers += [depthwise, nn.BatchNorm2d(inner), activation()]
        if excite:
            layers.append(SqueezeExcite(inner))
        layers += [nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out)]
        self.body = nn.Sequential(*layers)
        self.shortcut = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.shortcut else y


# Kernel, expansion, out, squeeze-excite, hard-swish, stride (Howard et al. 2019, table 1).
_V3_LARGE = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


class MobileNetV3(nn.Module):
    """Howard et al., "Searching for MobileNetV3", 2019 (large), in its first `depth` blocks."""

    def __init__(self, depth: int, divide: int) -> None:
        super().__init__()
        channels = 16
        layers: list[nn.Module] = [
            nn.Conv2d(3, channels, 3, 2, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.Hardswish(),
        ]
        for kernel, inner, out, excite, swish, stride in _V3_LARGE[:depth]:
            inner, out = max(8, inner // divide), max(8, out // divide)
            layers.append(InvertedResidual(channels, kernel, inner, out, excite, swish, stride))
            channels = out
        last = 960 // divide
        layers += [nn.Conv2d(channels, last, 1, bias=False), nn.BatchNorm2d(last), nn.Hardswish()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(last, 1280 // divide), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(1280 // divide, 1000)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def mobilenet_v3(small: bool = False) -> Model:
    """MobileNetV3 large."""
    image = 64 if small else 224
    module = _seeded(lambda: MobileNetV3(9 if small else 15, 2 if small else 1))
    return Model(_settle(module, image), (_normal(1, 3, image, image),))


def efficientnet_b0(small: bool = False) -> Model:
    """Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019."""
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    config = EfficientNetConfig(
        image_size=64 if small else 224,
        width_coefficient=0.25 if small else 1.0,
        depth_coefficient=0.5 if small else 1.0,
        hidden_dim=320 if small else 1280,
        dropout_rate=0.0,
        num_labels=1000,
    )
    return _images(lambda: EfficientNetForImageClassification(config), config.image_size, settle=True)


def convnext_tiny(small: bool = False) -> Model:
    """Liu et al., "A ConvNet for the 2020s", 2022."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = (
        ConvNextConfig(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1], layer_scale_init_value=0.5)
        if small
        else ConvNextConfig(layer_scale_init_value=0.5)
    )
    config.num_labels = 1000
    return _images(lambda: ConvNextForImageClassification(config), 64 if small else 224, settle=False)


def vit_b16(small: bool = False) -> Model:
    """Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020."""
    from transformers import ViTConfig, ViTForImageClassification

    config = (
        ViTConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=64
        )
        if small
        else ViTConfig()
    )
    config.num_labels = 1000
    return _images(lambda: ViTForImageClassification(config), config.image_size, settle=False)


def swin_t(small: bool = False) -> Model:
    """Liu et al., "Swin Transformer", 2021."""
    from transformers import SwinConfig, SwinForImageClassification

    config = (
        SwinConfig(image_size=56, embed_dim=24, depths=[2, 2], num_heads=[2, 4], drop_path_rate=0.0)
        if small
        else SwinConfig(drop_path_rate=0.0)
    )
    config.num_labels = 1000
    return _images(lambda: SwinForImageClassification(config), config.image_size, settle=False)


def bert_base(small: bool = False) -> Model:
    """Devlin et al., "BERT", 2018."""
    from transformers import BertConfig, BertModel

    config = (
        BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
        if small
        else BertConfig()
    )
    length = 16 if small else 128
    mask = torch.ones(1, length, dtype=torch.int64)
    mask[:, length - length // 4 :] = 0
    ids = _ids(config.vocab_size, 1, length)
    return Model(_seeded(lambda: BertModel(config)), {"input_ids": ids, "attention_mask": mask})


class NextToken(nn.Module):
    """A decoder without a cache: ids to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, use_cache=False).logits
        return logits


def gpt2(small: bool = False) -> Model:
    """Radford et al., "Language Models are Unsupervised Multitask Learners", 2019 (124 M)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=1000) if small else GPT2Config()
    module = _seeded(lambda: NextToken(GPT2LMHeadModel(config)))
    return Model(module, (_ids(config.vocab_size, 1, 16 if small else 64),))


def llama_small(small: bool = False) -> Model:
    """Touvron et al., "LLaMA", 2023: rotary positions, RMS norm, gated MLP, grouped queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    width, layers = (64, 2) if small else (512, 8)
    config = LlamaConfig(
        vocab_size=1000 if small else 32000,
        hidden_size=width,
        intermediate_size=2 * width if small else 1408,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    module = _seeded(lambda: NextToken(LlamaForCausalLM(config)))
    return Model(module, (_ids(config.vocab_size, 1, 16 if small else 64),))


class Seq2Seq(nn.Module):
    """The encoder and one pass of the decoder."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        result: Any = self.model(input_ids=input_ids, decoder_input_ids=decoder_input_ids, use_cache=False)
        logits: Tensor = result.logits
        return logits


def t5_small(small: bool = False) -> Model:
    """Raffel et al., "Exploring the Limits of Transfer Learning", 2019."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = (
        T5Config(vocab_size=1000, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
        if small
        else T5Config()
    )
    module = _seeded(lambda: Seq2Seq(T5ForConditionalGeneration(config)))
    return Model(module, (_ids(config.vocab_size, 1, 16 if small else 64), _ids(config.vocab_size, 1, 8)))


class Encoder(nn.Module):
    """Log-mel features to hidden states."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_features: Tensor) -> Tensor:
        states: Tensor = self.encoder(input_features).last_hidden_state
        return states


def whisper_encoder(small: bool = False) -> Model:
    """Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022."""
    from transformers import WhisperConfig, WhisperModel

    positions = 50 if small else 1500
    config = WhisperConfig(
        d_model=64 if small else 384,
        encoder_layers=2 if small else 4,
        encoder_attention_heads=4 if small else 6,
        encoder_ffn_dim=128 if small else 1536,
        decoder_layers=1,
        decoder_attention_heads=4 if small else 6,
        decoder_ffn_dim=64,
        max_source_positions=positions,
    )
    module = _seeded(lambda: Encoder(WhisperModel(config).encoder))
    return Model(module, (_normal(1, 80, 2 * positions),))


ZOO: dict[str, Callable[[bool], Model]] = {
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
