"""The artifact's own coding of weights: exact, entropy coded, decoded when an artifact is loaded."""

from hardy.compiler.artifact.coding.stream import Segment, Stream, decode, encode, read

__all__ = ["Segment", "Stream", "decode", "encode", "read"]
