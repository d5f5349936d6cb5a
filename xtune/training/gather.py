"""Weights that ZeRO-3 or FSDP2 spread over the processes, whole again: in the first of them, to be written, or for a
while in all, to write answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from xtune.ranks import rank, ranks
from xtune.recipe.schema import Train
from xtune.run.memory import free_memory
from xtune.training.group import gathered


def gather(model: nn.Module, train: Train, *, frozen: bool) -> None:
    """Put whole weights on the CPU in place of the spread ones, in process 0, one at a time. All processes call it.

    With DeepSpeed these are the weights that the optimizer trains, in float32, where the model's are bfloat16. The
    model cannot be trained on afterwards.

    frozen   also those that are not trained
    """
    if not train.is_spread:
        return
    for module in model.modules() if train.fsdp else ():
        if hasattr(module, "reshard"):  # what the last forward pass has left whole, would be put back later
            module.reshard()
    whole: dict[int, nn.Parameter] = {}  # by the parameter that it replaces: one may be in several modules
    for module, name, parameter in list(_parameters(model)):
        if not (frozen or parameter.requires_grad):
            continue
        if id(parameter) not in whole:
            tensor = _of_deepspeed(parameter) if train.deepspeed else _of_fsdp(parameter)
            whole[id(parameter)] = nn.Parameter(tensor, parameter.requires_grad) if rank() == 0 else parameter
        module.register_parameter(name, whole[id(parameter)])


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Within, what is spread over the processes is whole in each of them, where their memory does for it: to write an
    answer, each token would else gather all weights anew. All processes call it."""
    weights = list(model.parameters())
    spread = [weight for weight in weights if hasattr(weight, "ds_id")]
    modules = [module for module in model.modules() if hasattr(module, "set_reshard_after_forward")]
    if not spread and not modules:
        yield
        return
    needed = sum(getattr(weight, "ds_numel", weight.numel()) * weight.element_size() for weight in weights)
    device = weights[0].device
    free = free_memory(device) // (ranks() if device.type == "cpu" else 1)
    if not all(gathered(free > _ROOM * needed)):
        yield
        return
    if spread:
        import deepspeed

        with deepspeed.zero.GatheredParameters(spread), _without_hooks_of_deepspeed(model):
            yield
        return
    for module in modules[1:]:  # the first, the whole model, keeps its own anyway
        module.set_reshard_after_forward(False, recurse=False)
    yield
    for module in modules[1:]:
        module.set_reshard_after_forward(True, recurse=False)
        module.reshard()


_ROOM = 1.5  # times the weights: answers and what was computed for them need some too


@contextmanager
def _without_hooks_of_deepspeed(model: nn.Module) -> Iterator[None]:
    """They gather and give back the weights of each layer, and take note of the order, for each token of an answer."""
    before = []
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            before.append((hooks, dict(hooks)))
            for key in [key for key, hook in hooks.items() if hook.__module__.startswith("deepspeed")]:
                del hooks[key]
    try:
        yield
    finally:
        for hooks, kept in before:
            hooks.clear()
            hooks.update(kept)


def _parameters(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield module, name, parameter


def _of_deepspeed(parameter: nn.Parameter) -> Tensor:
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    trained = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
    if trained is not None:
        return trained.detach().cpu()
    with deepspeed.zero.GatheredParameters([parameter] if hasattr(parameter, "ds_id") else []):
        return parameter.detach().cpu().clone()


def _of_fsdp(parameter: nn.Parameter) -> Tensor:
    tensor = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return tensor.detach().cpu()
