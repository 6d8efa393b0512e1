"""A graph as an ONNX file, for the viewers that people already use.

Ops that ONNX has become its operators; the others become nodes of the domain "hardy", whose
attributes are the op's. The file always opens in a viewer; it is a runnable model where every node
is standard (`is_standard`).
"""

from __future__ import annotations

import os
from pathlib import Path

from google.protobuf.message import EncodeError
from onnx import ModelProto

from hardy.compiler.errors import ModelError
from hardy.compiler.export.onnx.model import to_model
from hardy.compiler.ir import Graph


def export(graph: Graph, path: str | Path | None = None) -> ModelProto:
    """The graph as an ONNX model, written to `path` (whole or not at all) where one is given."""
    model = to_model(graph)
    if path is not None:
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            temporary.write_bytes(model.SerializeToString())
            temporary.replace(target)
        except (EncodeError, ValueError) as error:
            raise ModelError(f"cannot write {target}: an ONNX file holds at most 2 GiB") from error
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ModelError(f"cannot write {target}: {error.strerror}") from error
    return model


def is_standard(model: ModelProto) -> bool:
    """Whether every node is an operator of ONNX itself."""
    return all(node.domain == "" for node in model.graph.node)
