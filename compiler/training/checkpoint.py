"""Checkpoints of training: one safetensors file whose header holds the rest as JSON."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hardy.compiler.errors import ArtifactError, UsageError

FORMAT = "hardy-training-1"


@dataclass(frozen=True)
class Checkpoint:
    """A file that training writes after every `every` steps and at its end, and continues from where
    the file exists. Workers of one run must all see the file; the first of them writes it."""

    path: Path
    every: int = 100

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UsageError(f"a checkpoint after every {self.every} steps is none", hint="give 1 or more")

    def due(self, done: int, total: int) -> bool:
        """Whether to write after so many steps of all."""
        return done % self.every == 0 or done == total

    def save(self, step: nn.Module, descent: torch.optim.Optimizer, plan: Any, state: Any) -> None:
        """Write parameters, optimizer and state, whole or not at all; `plan` says which run it is."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in _trained(step).items():
            tensors[f"parameter/{name}"] = parameter.detach()
            for key, value in descent.state.get(parameter, {}).items():
                if value is not None:
                    tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value)
        tensors = {name: t.cpu().clone().contiguous() for name, t in tensors.items()}
        header = {"format": FORMAT, "plan": json.dumps(plan), "state": json.dumps(state)}
        _write(self.path, tensors, header)

    def restore(self, step: nn.Module, descent: torch.optim.Optimizer, plan: Any) -> Any:
        """Put parameters and optimizer where they were; the state, None where there is no file yet.

        UsageError for the checkpoint of another run, ArtifactError for a file that is none.
        """
        if not self.path.exists():
            return None
        tensors, header = _read(self.path)
        if header.get("format") != FORMAT:
            raise ArtifactError(f"{self.path} is not a checkpoint of training", hint="choose another file")
        saved, plan = json.loads(header["plan"]), json.loads(json.dumps(plan))
        if saved != plan:
            changed = [key for key in {**saved, **plan} if saved.get(key) != plan.get(key)]
            raise UsageError(
                f"{self.path} is the checkpoint of another run: {', '.join(changed)} differ",
                hint="continue with the same options, or remove the file to start anew",
            )
        for name, parameter in _trained(step).items():
            with torch.no_grad():
                parameter.copy_(tensors[f"parameter/{name}"])
            prefix = f"optimizer/{name}/"
            held = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
            if held:
                # The step counter stays on the CPU, where AdamW keeps it.
                descent.state[parameter] = {
                    key: t if key == "step" else t.to(parameter.device) for key, t in held.items()
                }
        return json.loads(header["state"])


def _trained(step: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in step.named_parameters() if p.requires_grad}


def _write(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write beside the place and rename, after the data has reached the disk."""
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), hidden, dict(header))
        with hidden.open("rb") as file:
            os.fsync(file.fileno())
        hidden.replace(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"cannot write the checkpoint {path}: {error}") from error
    finally:
        hidden.unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"cannot read the checkpoint {path}: {error}", hint="remove it") from error
