"""Read a line of text: PP-OCRv4's recogniser, an ONNX model, on a rendered line."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image, ImageDraw, ImageFont

import hardy

HEIGHT, WIDTH = 48, 320


def model_file() -> Path:
    """The recogniser in the package rapidocr-onnxruntime, of which only the files are used."""
    package = importlib.util.find_spec("rapidocr_onnxruntime")
    if package is None or package.origin is None:
        raise SystemExit("pip install --no-deps rapidocr-onnxruntime==1.4.4")
    return Path(package.origin).parent / "models" / "ch_PP-OCRv4_rec_infer.onnx"


def alphabet(path: Path) -> list[str]:
    """What each class stands for: blank, the characters in the model's metadata, space."""
    (text,) = [
        p.value for p in onnx.load(path, load_external_data=False).metadata_props if p.key == "character"
    ]
    return ["", *text.splitlines(), " "]


def render(text: str) -> torch.Tensor:
    """Black on white, scaled to the model's height: [1, 3, 48, 320] in -1..1."""
    font = ImageFont.load_default(size=40)
    left, top, right, bottom = font.getbbox(text)
    page = Image.new("RGB", (int(right - left) + 24, int(bottom - top) + 20), "white")
    ImageDraw.Draw(page).text((12 - left, 10 - top), text, font=font, fill="black")
    width = min(WIDTH, round(page.width * HEIGHT / page.height))
    line = np.asarray(page.resize((width, HEIGHT), Image.Resampling.BILINEAR), np.float32)
    padded = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    padded[:, :width] = line / 127.5 - 1
    return torch.from_numpy(padded).permute(2, 0, 1)[None].contiguous()


def decode(scores: torch.Tensor, characters: list[str]) -> str:
    """Connectionist temporal classification: the best class of each step, repeats merged, blanks dropped."""
    best = scores[0].argmax(-1).unique_consecutive()
    return "".join(characters[int(i)] for i in best)


def main(target: str = "cpu", text: str = "Hardware is hard-wired 2041") -> str:
    """Compile the recogniser and read the rendered text back."""
    path = model_file()
    artifact = hardy.compile(path, target=target, shapes={"x": (1, 3, HEIGHT, WIDTH)})
    (scores,) = artifact.run(x=render(text)).values()
    read = decode(scores, alphabet(path))
    print(f"rendered: {text}\nread:     {read}")
    return read


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--text", default="Hardware is hard-wired 2041")
    given = parser.parse_args()
    main(given.target, given.text)
