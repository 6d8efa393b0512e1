"""Instruction sets that the CPU target generates code for."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from pathlib import Path

from hardy.compiler.errors import TargetError

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Isa:
    """One instruction set: what the kernels may assume and what LLVM is told.

    `vector_bits` and `registers` describe the vector register file that tiles are chosen for. `features` are
    the optional parts in use: `vnni` (u8 x i8 dot products), `amx` (tiles) and `vpopcntdq` (population
    counts). `flags` are the names under which /proc/cpuinfo lists everything the code needs.
    """

    name: str
    arch: str
    vector_bits: int
    registers: int
    fma: bool
    flags: tuple[str, ...]
    features: tuple[str, ...] = ()

    def lanes(self, dtype: str = "float32") -> int:
        """Elements of a type, named as TVM names it, in one vector register."""
        return self.vector_bits // int("".join(c for c in dtype if c.isdigit()))

    def has(self, feature: str) -> bool:
        return feature in self.features

    def target(self) -> dict[str, object]:
        """The LLVM target as the dictionary `tvm.target.Target` takes.

        The features are spelled out and the processor is the architecture's baseline, so the code depends on
        nothing that LLVM believes about the machine, and 512-bit vectors are not split in two as they would
        be under the tuning of `skylake-avx512` or `x86-64-v4`.
        """
        baseline = {"x86_64": "x86-64", "aarch64": "generic"}.get(self.arch, "generic")
        target: dict[str, object] = {
            "kind": "llvm",
            "mtriple": f"{self.arch}-unknown-linux-gnu",
            "mcpu": baseline,
        }
        if llvm := [f"+{_LLVM_NAMES.get(flag, flag)}" for flag in self.flags]:
            target["mattr"] = llvm
        return target


# Where /proc/cpuinfo and LLVM disagree on a name.
_LLVM_NAMES = {
    "avx512_vnni": "avx512vnni",
    "amx_tile": "amx-tile",
    "amx_int8": "amx-int8",
    "amx_bf16": "amx-bf16",
    "avx512_vpopcntdq": "avx512vpopcntdq",
    "asimd": "neon",
}
_FEATURES = {
    "vnni": ("avx512_vnni",),
    "amx": ("amx_tile", "amx_int8", "amx_bf16"),
    "vpopcntdq": ("avx512_vpopcntdq",),
}
_AVX2 = ("avx", "avx2", "fma", "f16c")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")
_PLAIN = {
    "avx512": Isa("avx512", "x86_64", 512, 32, True, _AVX512),
    "avx2": Isa("avx2", "x86_64", 256, 16, True, _AVX2),
    "neon": Isa("neon", "aarch64", 128, 32, True, ("asimd",)),
}


def by_name(name: str) -> Isa:
    """The instruction set called `avx512`, `avx512+vnni`, `avx512+vnni+amx`, `avx2`, `neon` or `portable`.

    `portable` is the baseline of the architecture this process runs on: SSE2 on x86-64. Raises TargetError.
    """
    base, *features = name.split("+")
    if base == "portable":
        isa = Isa("portable", _machine(), 128, 16, False, ())
    elif base in _PLAIN:
        isa = _PLAIN[base]
    else:
        known = ", ".join([*_PLAIN, "portable"])
        raise TargetError(f"no instruction set is called {name!r}", hint=f"use one of {known}")
    for feature in features:
        if base != "avx512" or feature not in _FEATURES:
            raise TargetError(f"{base} has no feature {feature!r}", hint=f"avx512 has {', '.join(_FEATURES)}")
    ordered = tuple(f for f in _FEATURES if f in features)
    flags = isa.flags + tuple(flag for f in ordered for flag in _FEATURES[f])
    return replace(isa, name="+".join((base, *ordered)), flags=flags, features=ordered)


def host() -> Isa:
    """The best instruction set that this machine has."""
    present = _host_flags()
    for base in ("avx512", "avx2", "neon"):
        if not missing_on_host(_PLAIN[base]):
            if base != "avx512":
                return _PLAIN[base]
            features = [f for f, flags in _FEATURES.items() if present.issuperset(flags)]
            return by_name("+".join((base, *features)))
    return by_name("portable")


def missing_on_host(isa: Isa) -> list[str]:
    """What code for `isa` needs and this machine lacks, in /proc/cpuinfo's names; empty when it can run."""
    if isa.arch != _machine():
        return [isa.arch]
    present = _host_flags()
    return [flag for flag in isa.flags if flag not in present]


def _machine() -> str:
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def _host_flags() -> frozenset[str]:
    """The CPUID flags the kernel reports; none where there is no /proc/cpuinfo."""
    if not CPUINFO.exists():
        return frozenset()
    for line in CPUINFO.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
