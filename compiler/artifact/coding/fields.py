"""Bytes written and read one field after the other."""

from __future__ import annotations

from dataclasses import dataclass

from hardy.compiler.errors import ArtifactError

# Eight groups of seven bits: larger numbers than any size.
_MOST = 8


def varint(number: int) -> bytes:
    """A whole number in groups of seven bits, the lowest first; all but the last have their top bit set."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


@dataclass
class Reader:
    """Takes fields off the front of a stream; ArtifactError where it ends too early."""

    data: memoryview
    position: int = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def take(self, count: int) -> memoryview:
        """The next so many bytes."""
        if count > self.left:
            raise ArtifactError(f"the coded weights end {count - self.left} bytes too early")
        self.position += count
        return self.data[self.position - count : self.position]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        result = 0
        for group in range(_MOST):
            byte = self.byte()
            result |= (byte & 0x7F) << 7 * group
            if byte < 0x80:
                return result
        raise ArtifactError("the coded weights hold a number without an end")
