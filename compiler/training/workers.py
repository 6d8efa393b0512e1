"""The processes that train together: one group of torch.distributed, as `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from hardy.compiler.training.batches import Shard


def here() -> Shard:
    """This process among those that train together; alone where no group has been formed."""
    if dist.is_available() and dist.is_initialized():
        return Shard(dist.get_rank(), dist.get_world_size())
    return Shard()


@contextmanager
def joined() -> Iterator[Shard]:
    """Join the group that `torchrun` describes in the environment, and leave it at the end; alone
    without `torchrun`. Over NCCL where every worker has a GPU, else over gloo."""
    if "RANK" not in os.environ or here().world > 1:
        yield here()
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = dist.is_nccl_available() and torch.cuda.device_count() > local
    if on_gpu:
        torch.cuda.set_device(local)
    # Workers that torchrun starts again find the keys of those that died in the same store.
    store, rank, world = next(rendezvous("env://"))
    attempt = f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    store = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]  # documented, not in __all__
    dist.init_process_group("nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=world)
    try:
        yield here()
    finally:
        dist.destroy_process_group()


def default_device() -> torch.device:
    """The worker's GPU in a group over NCCL, else the CPU."""
    if here().world > 1 and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def total(x: Tensor) -> Tensor:
    """The sum of a tensor over all workers, on each of them."""
    x = x.clone()
    if here().world > 1:
        dist.all_reduce(x)
    return x
