"""The CPU as a target: TIR kernels written for its instruction set, compiled by LLVM into one library.

What generates code is imported where it is needed: a compiled program runs without TVM.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hardy.compiler.errors import ArtifactError
from hardy.compiler.ir import Node
from hardy.compiler.pipeline import Pass
from hardy.compiler.types import DType
from hardy.targets.cpu import isa as isas
from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.library import linker
from hardy.targets.cpu.runner import CONSTANTS, LIBRARY, LibraryRunner
from hardy.targets.target import Device, Loaded, Memory, QuantizationScheme, Runner, Stage, Support, Target

CLOCK = 3.0e9  # cycles a second that the stated peaks assume
# What the kernels count on, whatever the machine has: bytes, and bytes a cycle that one core sustains.
CACHES = (("L1", 32 << 10, 64), ("L2", 1 << 20, 32), ("memory", 8 << 30, 4))


@dataclass(frozen=True)
class CpuTarget(Target):
    """One core with an instruction set: `cpu` is the host's best, `cpu:avx2` that one on any machine."""

    isa: Isa

    kind = "cpu"
    summary = "native code for one core: AVX-512 (VNNI), AVX2, NEON or portable, as one shared library"

    @classmethod
    def create(cls, argument: str) -> CpuTarget:
        return cls(isas.by_name(argument) if argument else isas.host())

    @property
    def name(self) -> str:
        return f"cpu:{self.isa.name}"

    def describe(self) -> Device:
        """The instruction set at a nominal clock: the same on every machine, so that artifacts are."""
        cycle = 4 if self.isa.fma else 2
        integers = self.isa.lanes("int8") * 4 if self.isa.has("vnni") else self.isa.lanes("int16") * 2
        peak = {
            DType.f32: CLOCK * cycle * self.isa.lanes("float32"),
            DType.f64: CLOCK * cycle * self.isa.lanes("float64"),
            DType.i8: CLOCK * integers,
        }
        return Device(
            name=f"one {self.isa.arch} core with {self.isa.name}",
            kind="cpu",
            features=self.isa.flags,
            memories=tuple(Memory(name, size, rate * CLOCK) for name, size, rate in CACHES),
            peak=peak,
            quantization=QuantizationScheme(
                activations=DType.u8, weights=DType.i8, symmetric_activations=False, per_channel=True
            ),
            sparsity=("channels",),
            channel_multiple=self.isa.lanes("float32"),
        )

    def supports(self, node: Node) -> Support:
        from hardy.targets.cpu.lower.table import supports

        return supports(node)

    def passes(self) -> tuple[Pass, ...]:
        from hardy.targets.cpu.passes import pipeline

        return pipeline()

    def stages(self) -> tuple[Stage, ...]:
        from hardy.targets.cpu.stages import stages

        return stages(self.isa)

    def load(self, artifact: Loaded) -> Runner:
        manifest: Mapping[str, object] = artifact.manifest
        missing = isas.missing_on_host(isas.by_name(str(manifest["isa"])))
        if missing:
            raise ArtifactError(
                f"this machine lacks {', '.join(missing)}, which the artifact needs",
                where=str(artifact.folder),
                hint="compile the model on this machine, or for `cpu:portable`",
            )
        graph = artifact.graph
        arena, steps = manifest["arena_bytes"], manifest["steps"]
        assert isinstance(arena, int)
        assert isinstance(steps, Sequence)
        return LibraryRunner(
            artifact.folder / LIBRARY,
            [v.type for v in graph.inputs],
            [v.type for v in graph.outputs],
            artifact.weights[CONSTANTS],
            arena,
            [str(s) for s in steps],
        )

    def check(self) -> list[str]:
        problems = []
        if importlib.util.find_spec("tvm") is None:
            problems.append("the package apache-tvm, which generates code, is not installed")
        if linker(self.isa) is None:
            problems.append(f"no C compiler was found to link code for {self.isa.arch}")
        missing = isas.missing_on_host(self.isa)
        if missing:
            problems.append(f"this machine cannot run the code: it lacks {', '.join(missing)}")
        return problems
