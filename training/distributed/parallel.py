"""The network over several processes, replicated (DDP) or sharded (FSDP2), and full tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from minit2i_deploy.model.blocks import DoubleBlock, TextBlock
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.distributed.processes import Processes
from minit2i_deploy.training.recipe.recipe import Recipe


def parallelize(net: MMJiT, recipe: Recipe, processes: Processes) -> nn.Module:
    """Move the network to the device, and to all processes where there are several.

    Sharding replaces the network's parameters: take them after this.

    Returns:
        the module to call where a gradient is needed; ``net`` itself in one process.
    """
    if recipe.recompute:
        _replace_forwards(net, _with_recompute)
    if recipe.compile:
        compile_blocks(net)
    if processes.count == 1:
        return net.to(processes.device)
    if recipe.parallel == "ddp":
        return DistributedDataParallel(net.to(processes.device), gradient_as_bucket_view=True)
    _shard(net, recipe, processes)
    return net


def transformer_blocks(net: MMJiT) -> list[nn.Module]:
    """The transformer blocks: units of sharding, of recomputing and of compiling."""
    return [module for module in net.modules() if isinstance(module, DoubleBlock | TextBlock)]


def unwrap(module: nn.Module) -> nn.Module:
    """The network inside what ``parallelize`` returned, to call where no gradient is needed."""
    inner: nn.Module = getattr(module, "module", module)
    return inner


def compile_blocks(net: MMJiT) -> None:
    """Compile the blocks in place. Blocks of one kind share one compiled form at any depth."""
    _replace_forwards(net, partial(torch.compile, dynamic=False))


@contextlib.contextmanager
def no_gradient_sync(module: nn.Module) -> Iterator[None]:
    """Keep gradients in this process: for every micro-batch of a step but the last."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(False)
        yield
        module.set_requires_gradient_sync(True)
    elif isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
    else:
        yield


def full_tensor(value: Tensor) -> Tensor:
    """The full tensor of a shard, on every process; any other tensor as it is.

    Every process must call this, in the same order.
    """
    return value.full_tensor() if isinstance(value, DTensor) else value


def local_shard(value: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing memory; any other tensor as it is."""
    return value.to_local() if isinstance(value, DTensor) else value


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """Shard a full tensor, present in every process, as ``like`` is, on its device."""
    value = value.to(like.device)
    if not isinstance(like, DTensor):
        return value
    # None: nothing is sent, because every process has read the same file.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def _replace_forwards(
    net: MMJiT, transform: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    for block in transformer_blocks(net):
        for name in ("forward", "forward_last"):
            if hasattr(block, name):
                setattr(block, name, transform(getattr(block, name)))


def _with_recompute(forward: Callable[..., Any]) -> Callable[..., Any]:
    def recomputed(*arguments: Tensor) -> Any:
        # Without a gradient there is nothing to recompute, and under a forward-mode derivative
        # the hooks of checkpoint are refused.
        if not torch.is_grad_enabled():
            return forward(*arguments)
        return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False)

    return recomputed


def _shard(net: MMJiT, recipe: Recipe, processes: Processes) -> None:
    mesh = init_device_mesh(processes.device.type, (processes.count,))
    policy = MixedPrecisionPolicy()
    if recipe.precision == "bf16":
        # Autocast rounds the gathered weights anyway; rounding first halves what is sent.
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in transformer_blocks(net):
        fully_shard(block, mesh=mesh, mp_policy=policy)
        if isinstance(block, DoubleBlock):
            # The last block is called through forward_last, which FSDP does not hook by itself.
            register_fsdp_forward_method(block, "forward_last")
    fully_shard(net, mesh=mesh, mp_policy=policy)
    net.to(processes.device)
