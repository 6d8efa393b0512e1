"""FPGAs as targets: accelerators that hardy drives by instructions, and their models."""
