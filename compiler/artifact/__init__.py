"""The on-disk form of a compiled model: a folder with a manifest, the graph, weights and target files."""

from hardy.compiler.artifact.artifact import Artifact, load
from hardy.compiler.artifact.built import Built
from hardy.compiler.artifact.manifest import claims_artifact, is_artifact

__all__ = ["Artifact", "Built", "claims_artifact", "is_artifact", "load"]
