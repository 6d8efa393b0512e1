"""Kernels for the CPU, written as TVM TIR and specialised for one shape and one instruction set."""
