"""Weights that ZeRO-3 or FSDP2 spread over the processes, whole again in the first of them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from xtune.ranks import rank
from xtune.recipe.schema import Train


def gather(model: nn.Module, train: Train, *, frozen: bool) -> None:
    """Put whole weights on the CPU in place of the spread ones, in process 0, one at a time. All processes call it.

    With DeepSpeed these are the weights that the optimizer trains, in float32, where the model's are bfloat16. The
    model cannot be trained on afterwards.

    frozen   also those that are not trained
    """
    if not train.deepspeed and not train.fsdp:
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
