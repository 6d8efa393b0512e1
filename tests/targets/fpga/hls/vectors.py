"""Programs with confirmed results, and programs of one product for tests to change."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hardy.targets.fpga.config import Config
from hardy.targets.fpga.isa import (
    Alu,
    AluOpcode,
    Buffer,
    Finish,
    Gemm,
    Instruction,
    Load,
    Store,
    Tokens,
    Uop,
    encode_uops,
)

Image = np.ndarray[Any, Any]
VECTORS = sorted((Path(__file__).parents[3] / "data" / "vta_vectors").glob("*.json"))


def read_vector(path: Path) -> tuple[bytes, Image, Image]:
    """A program, the image before and the image after."""
    vector = json.loads(path.read_text())
    before = np.random.default_rng(vector["seed"]).integers(0, 256, vector["dram_bytes"], dtype=np.uint8)
    _patch(before, vector["patches"])
    after = before.copy()
    _patch(after, vector["expected_changes"])
    return bytes.fromhex(vector["instructions"]), before, after


def _patch(image: Image, patches: list[tuple[int, str]]) -> None:
    for address, text in patches:
        data = np.frombuffer(bytes.fromhex(text), np.uint8)
        image[address : address + data.size] = data


def product(config: Config, **changes: Any) -> tuple[list[Instruction], Image]:
    """Loads, one GEMM of eight micro-ops, a shift, a store; `changes` are fields of the GEMM."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, 1 << 16, dtype=np.uint8)
    code = np.frombuffer(encode_uops([Uop(n, n, n) for n in range(8)], config), np.uint8)
    image[: code.size] = code
    program: list[Instruction] = [
        Load(Buffer.UOP, 0, 0, 8),
        Load(Buffer.ACC, 0, 8, 16),
        Load(Buffer.INP, 0, 64, 16),
        Load(Buffer.WGT, 0, 4, 8, tokens=Tokens(push_next=True)),
        replace(Gemm((0, 8), tokens=Tokens(pop_prev=True)), **changes),
        Alu(AluOpcode.SHR, (0, 8), imm=4, tokens=Tokens(push_next=True)),
        Store(0, (1 << 15) // config.out_bytes, 8, tokens=Tokens(pop_prev=True, push_prev=True)),
        Finish(Tokens(pop_next=True)),
    ]
    return program, image
