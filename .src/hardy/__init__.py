"""hardy fits a neural network to the hardware that runs it."""

__version__ = "0.1.0"
