"""Compiles kernels into one library with one callable for each: for tests, benchmarks and trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx

from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels.kernel import Array, Kernel


@dataclass(frozen=True, slots=True)
class Compiled:
    """A kernel that can be called with flat NumPy arrays in the order of `kernel.inputs`, no workspace."""

    kernel: Kernel
    function: Callable[..., None]
    workspace: Array | None

    def bind(self, *arrays: Array) -> Callable[[], None]:
        """The call with its arguments converted once; the arrays must stay alive."""
        given = list(arrays)
        if self.workspace is not None:
            dtype = str(self.kernel.func.params[-1].ty.element_type.dtype)
            given.append(self.workspace.view(dtype))
        tensors = [tvm_ffi.from_dlpack(np.asarray(a).reshape(-1), require_alignment=1) for a in given]
        return lambda: self.function(*tensors)

    def __call__(self, *arrays: Array) -> None:
        self.bind(*arrays)()


def compile_kernels(kernels: Mapping[str, Kernel], isa: Isa) -> dict[str, Compiled]:
    """Compiles every kernel for `isa`; the names must be identifiers. The result keeps the library alive."""
    module = tvm.ir.IRModule({f"{name}_kernel": kernel.func for name, kernel in kernels.items()})
    for name, kernel in kernels.items():
        module[name] = _entry(module.get_global_var(f"{name}_kernel"), name, kernel)
    library = lower(module, tvm.target.Target(isa.target()))
    return {
        name: Compiled(kernel, library[name], _workspace(kernel.workspace_bytes))
        for name, kernel in kernels.items()
    }


def _entry(callee: Any, name: str, kernel: Kernel) -> Any:
    """A public function over one-dimensional tensors of any length that passes their data on."""
    buffers = []
    for param in kernel.func.params:
        size = tirx.Var(f"{param.name}_size", "int32")
        dtype = param.ty.element_type.dtype
        buffers.append(tirx.decl_buffer((size,), str(dtype), name=param.name, data_alignment=1, layout=None))
    call = tvm.ir.Call(callee, [tirx.buffer_data(b) for b in buffers])
    attrs = tvm.ir.make_node("ir.DictAttrs", global_symbol=name, s_tir=True)
    return tirx.PrimFunc(buffers, tirx.Evaluate(call), attrs=attrs)


def _workspace(size: int) -> Array | None:
    """Bytes on a 64-byte boundary."""
    if not size:
        return None
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


def lower(module: Any, target: Any) -> Any:
    """Machine code from a module of flat kernels, without the passes that only blocks and GPUs need.

    FlattenBuffer and StmtSimplify are left out too: the first turns vector indices into sums that LLVM's code
    generator takes apart element by element, the second takes x == x for true.
    """
    passes = [
        tirx.transform.BindTarget(target.with_host(target)),
        tirx.transform.AnnotateEntryFunc(),
        tirx.transform.SplitHostDevice(),
        tirx.transform.MakePackedAPI(),
        tirx.transform.LowerTVMBuiltin(),
        tirx.transform.LowerIntrin(),
    ]
    module = tvm.ir.transform.Sequential(passes)(module)
    return tvm.get_global_func("target.build.llvm")(module, target)
