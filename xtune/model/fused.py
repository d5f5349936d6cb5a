"""Puts the fused kernels to work in a model: modules that compute what a kernel does get a `forward` of their own, each
on the instance; what is asked of them that a kernel does not do goes to their class's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from xtune.data.encoding.encode import NO_LABEL
from xtune.kernels.linear_cross_entropy import linear_cross_entropy
from xtune.kernels.lora import LoraLinear, lora_linears, lora_mlp
from xtune.kernels.rms_norm import rms_norm
from xtune.kernels.rotary import rotary
from xtune.kernels.swiglu import swiglu

# transformers' classes, by name, since many families have one of their own that is the same.
_NORMS = ("LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "GlmRMSNorm", "Glm4RMSNorm")
_MLPS = ("LlamaMLP", "Qwen2MLP", "Qwen3MLP")
_ATTENTION = ("LlamaAttention", "Qwen2Attention", "Qwen3Attention")
_SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Where a config.json says that the output layer's products are not the logits yet."""


def fuse(model: nn.Module, kernels: Sequence[str]) -> list[str]:
    """Let the model's modules compute by these kernels ("loss", "lora", "mlp", "norm", "attention"), and return the
    kernels for which it has none that could."""
    forwards = {"loss": _output_layer, "lora": _lora, "mlp": _mlp, "norm": _norm, "attention": _attention}
    unused = []
    for kernel in kernels:
        modules = list(_modules(model, kernel))
        for module in modules:
            module.forward = partial(forwards[kernel], module)
        if not modules:
            unused.append(kernel)
    return unused


def unfuse(model: nn.Module) -> None:
    """Let the modules compute as their classes do again."""
    for module in model.modules():
        if isinstance(vars(module).get("forward"), partial):
            del module.forward


def _modules(model: nn.Module, kernel: str) -> Iterator[nn.Module]:
    """Those of a model that compute what a kernel does."""
    if kernel == "loss":
        head, config = model.get_output_embeddings(), model.config.get_text_config()
        if (
            type(head) is nn.Linear
            and head.bias is None
            and not any(getattr(config, n, None) for n in _SCALED)
        ):
            yield head
        return
    for module in model.modules():
        name = type(module).__name__
        if (
            (kernel == "lora" and _adapted(module))
            or (
                kernel == "mlp"
                and name in _MLPS
                and type(module.act_fn).__name__ in ("SiLU", "SiLUActivation")
            )
            or (kernel == "norm" and name in _NORMS)
            or (kernel == "attention" and name in _ATTENTION)
        ):
            yield module


def _norm(self: nn.Module, hidden_states: Tensor) -> Tensor:
    return rms_norm(hidden_states, self.weight, self.variance_epsilon)


def _lora(self: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    layer = None if args or kwargs else _adapted(self)
    if layer is None:
        return type(self).forward(self, x, *args, **kwargs)
    return lora_linears(x, [layer])[0]


def _mlp(self: nn.Module, x: Tensor) -> Tensor:
    layers = [_frozen(part) for part in (self.gate_proj, self.up_proj, self.down_proj)]
    if all(layers):
        return lora_mlp(x, *layers)
    return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


def _attention(
    self: nn.Module,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    kind = self.config._attn_implementation
    if kind == "eager" or any(kwargs.get(name) is not None for name in ("cache", "past_key_values")):
        return type(self).forward(self, hidden_states, position_embeddings, attention_mask, **kwargs)
    rows, tokens = hidden_states.shape[:2]
    projections = self.q_proj, self.k_proj, self.v_proj
    layers = [_frozen(projection) for projection in projections]
    if all(layers):
        projected = lora_linears(hidden_states, layers)
    else:
        projected = [projection(hidden_states) for projection in projections]
    query, key, value = (states.view(rows * tokens, -1, self.head_dim) for states in projected)
    if hasattr(self, "q_norm"):
        query, key = self.q_norm(query), self.k_norm(key)
    if position_embeddings[0].shape[1] == tokens:  # else there is nothing to turn by
        cos, sin = (table.expand(rows, -1, -1).reshape(rows * tokens, -1) for table in position_embeddings)
        query, key = rotary(query, key, cos, sin)
    query, key, value = (
        states.view(rows, tokens, -1, self.head_dim).transpose(1, 2) for states in (query, key, value)
    )
    output, weights = ALL_ATTENTION_FUNCTIONS[kind](
        self,
        query,
        key,
        value,
        attention_mask,
        dropout=self.attention_dropout if self.training else 0.0,
        scaling=self.scaling,
        **({"sliding_window": window} if (window := getattr(self, "sliding_window", None)) else {}),
        **kwargs,
    )
    return self.o_proj(output.reshape(rows, tokens, -1)), weights


def _frozen(module: nn.Module) -> LoraLinear | None:
    """A linear layer as the kernels take it, or None where it is trained itself, or more than they compute."""
    if type(module) is nn.Linear and not module.weight.requires_grad:
        return LoraLinear(lambda: module.weight, module.bias)
    return _adapted(module)


def _adapted(module: nn.Module) -> LoraLinear | None:
    """A layer of PEFT's with one plain adapter at work, as the kernels take it."""
    base = getattr(module, "base_layer", None)
    if base is None or not hasattr(module, "lora_A") or module.disable_adapters or module.merged:
        return None
    (name, *others) = module.active_adapters
    plain = not others and name in module.lora_A and name not in module.lora_variant
    if not plain or not isinstance(module.lora_dropout[name], nn.Identity) or module.lora_bias[name]:
        return None
    if type(base) is nn.Linear:
        dense = lambda: base.weight  # noqa: E731
    elif type(base).__name__ == "Linear4bit":
        dense = partial(_dequantised, base.weight)
    else:
        return None
    a, b = module.lora_A[name].weight, module.lora_B[name].weight
    return LoraLinear(dense, base.bias, a, b, module.scaling[name])


def _dequantised(weight: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, weight.quant_state)


@dataclass
class _Wanted:
    """Labels that the output layer is to give losses of in place of logits."""

    targets: Tensor
    temperature: float
    given: bool = False


_wanted: ContextVar[_Wanted | None] = ContextVar("labels of a forward pass", default=None)


@contextmanager
def losses_wanted(targets: Tensor, temperature: float) -> Iterator[_Wanted]:
    """Within, a fused output layer gives -log p of these targets, int64 [rows, columns], 0 where they are NO_LABEL, in
    the place of logits, and says so in `given`."""
    token = _wanted.set(wanted := _Wanted(targets, temperature))
    try:
        yield wanted
    finally:
        _wanted.reset(token)


def _output_layer(self: nn.Linear, hidden: Tensor) -> Tensor:
    wanted = _wanted.get()
    if wanted is None or hidden.shape[:-1] != wanted.targets.shape:
        return nn.Linear.forward(self, hidden)
    wanted.given = True
    rows, targets = hidden.flatten(0, 1), wanted.targets.flatten()
    if wanted.temperature != 1:
        rows = rows / wanted.temperature
    if len(hidden) == 1:  # a packed row: all columns kept have labels
        return linear_cross_entropy(rows, self.weight, targets).view(wanted.targets.shape)
    at = (targets != NO_LABEL).nonzero().squeeze(1)
    losses = linear_cross_entropy(rows[at], self.weight, targets[at])
    return losses.new_zeros(len(targets)).index_add(0, at, losses).view(wanted.targets.shape)
