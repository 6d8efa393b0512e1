"""The CPU as a target: TIR kernels written for its instruction set, compiled by LLVM into one library."""
