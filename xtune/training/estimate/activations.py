"""What a model keeps of each token for the backward pass, counted from what each layer computes and by which kernel.

The loop measures the same on the model itself before its first step (xtune.training.memory), where it is loaded. This
is for before it is, and tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xtune.recipe.schema import Full, Lora
from xtune.training.estimate.architecture import Architecture
from xtune.training.estimate.trained import Role

_NORMS = ("llama", "qwen2", "qwen3", "glm", "glm4")
_LLAMA = ("llama", "qwen2", "qwen3")
"""Kinds whose layers xtune.model.fused has kernels for: root-mean-square norms; attention and gated layers."""
_LAYER_NORMS = "xtune_chatglm_6b"


@dataclass(frozen=True)
class Computing:
    """How a model computes.

    kernels     train.fused's, as far as the recipe lets them work
    size        bytes of a number in products; exact: in norms and between layers
    on_gpu      else on a CPU
    in_c        whether the kernels in C do
    packing     whether samples are packed
    attention   as model.attention
    """

    kernels: frozenset[str]
    size: int
    exact: int
    on_gpu: bool
    in_c: bool
    packing: bool
    attention: str


@dataclass(frozen=True)
class Kept:
    """Bytes kept for the backward pass: of each token in all layers, of each pair of tokens of a text, of each column
    with a label, and, with gradient checkpointing, of each token and pair in the layer at hand and between layers."""

    token: float
    pair: float
    column: float
    checkpointed_token: float
    checkpointed_pair: float


def kept(
    method: Full | Lora, of: Architecture, roles: Mapping[str, Role], how: Computing, padded: bool
) -> Kept:
    """Of a model with this method.

    padded   whether texts of different lengths stand in one batch, which takes a mask
    """
    learning = [number for number in range(of.layers) if _learns(roles, number)]
    # Layers below the first that learns need no gradient, nor has the embedding one.
    layers = [_layer(method, of, roles, how, n, padded) for n in range(min(learning, default=0), of.layers)]
    tokens, pairs = zip(*layers, strict=True)
    between = of.hidden * how.exact
    fused_norm = "norm" in how.kernels and of.kind in _NORMS
    last = _norm(of.hidden, fused_norm, method, how, of.kind)
    # What comes of a frozen embedding has no gradient: its norm keeps nothing, but what is to be made again.
    first = 0 if isinstance(method, Full) or (fused_norm and how.in_c) else last
    return Kept(
        token=sum(tokens) + last - first,
        pair=sum(pairs),
        column=_column(method, of, how),
        checkpointed_token=between * of.layers + max(tokens) + last,
        checkpointed_pair=max(pairs),
    )


def _column(method: Full | Lora, of: Architecture, how: Computing) -> float:
    """What the output layer takes, or its gradient; a trained NormHead also keeps what it divides."""
    if not isinstance(method, Full):
        return of.hidden * how.size if "loss" in how.kernels else 0
    return of.hidden * how.size + (4 * of.output[0] if of.output and of.norm_head else 0)


def _learns(roles: Mapping[str, Role], number: int) -> bool:
    return any(f".{number}." in name and role != "frozen" for name, role in roles.items())


def _layer(
    method: Full | Lora,
    of: Architecture,
    roles: Mapping[str, Role],
    how: Computing,
    number: int,
    padded: bool,
) -> tuple[float, float]:
    """(bytes of a token, bytes of a pair of tokens) that a layer keeps."""
    names = {name.rpartition(".")[2]: name for name in of.linear if f".{number}." in name}
    layer = _Layer(
        {part: of.linear[name] for part, name in names.items()},
        {part: roles[name] for part, name in names.items()},
        method,
        how,
        again="norm" in how.kernels and of.kind in _NORMS and how.in_c,
        fused=of.kind in _LLAMA,
    )
    norms = [name for name in of.shapes if f".{number}." in name and name.endswith("norm.weight")]
    own = [name for name in norms if name.endswith(("q_norm.weight", "k_norm.weight"))]
    fused_norm = "norm" in how.kernels and of.kind in _NORMS
    total = (len(norms) - len(own)) * _norm(of.hidden, fused_norm, method, how, of.kind)
    if own:
        total += _norm((of.heads + of.kv_heads) * of.head_size, fused_norm, method, how, of.kind)
    total += layer.inputs() + layer.adapters() + layer.mlp()
    attention, pair = _attention(of, how, padded, layer.keeps_input("o_proj"))
    return total + attention, pair


@dataclass(frozen=True)
class _Layer:
    """The linear layers of a layer: their shapes and roles by the last part of their names.

    again   whether what a norm made is made again, where the kernels want it
    fused   whether the kernels for attention and gated layers are made for it
    """

    shapes: Mapping[str, tuple[int, ...]]
    roles: Mapping[str, Role]
    method: Full | Lora
    how: Computing
    again: bool
    fused: bool

    @property
    def plain(self) -> bool:
        """Whether all of its adapters are such as the kernels compute."""
        method = self.method
        if isinstance(method, Full):
            return False
        return not (method.dropout or method.dora or getattr(method, "bits", 4) == 8)

    def keeps_input(self, name: str, again: bool = False) -> bool:
        """For the gradient of a linear layer's weights, or of its adapter's first factor."""
        role = self.roles.get(name, "frozen")
        if role != "adapted":
            return role == "trained"
        if not self.plain:
            return not self.method.dropout or self.method.dora
        return not (again and "lora" in self.how.kernels)

    def kernel(self, name: str) -> bool:
        """Whether a kernel computes attention's projections, or the gated layers."""
        return (
            self.fused
            and name in self.how.kernels
            and not (name == "attention" and self.how.attention == "eager")
        )

    def inputs(self) -> float:
        """What attention and the feed-forward layers take."""
        attention = [name for name in self.shapes if name in ("q_proj", "k_proj", "v_proj")]
        into = [name for name in self.shapes if name not in (*attention, "o_proj", "down_proj")]
        total = 0.0
        for group, kernel in ((attention, "attention"), (into, "mlp")):
            if (
                self.kernel(kernel) and self.plain
            ):  # several in one, which keeps it even where none is adapted
                needed = not self.again
            else:
                needed = any(self.keeps_input(name, self.again) for name in group)
            total += self.shapes[group[0]][1] * self.how.size if group and needed else 0
        return total

    def adapters(self) -> float:
        """A x; with dropout, its mask and what it leaves; with DoRA, what both parts give."""
        total = 0.0
        for name, (outputs, inputs) in self.shapes.items():
            if self.roles[name] == "adapted":
                total += self.method.rank * self.how.size
                if self.method.dropout:
                    total += inputs * (self.how.size + (1 if self.how.on_gpu else self.how.size))
                if self.method.dora:
                    total += 2 * outputs * self.how.size
        return total

    def mlp(self) -> float:
        """What stands between the feed-forward layers: of gated ones gate, up, gate's activation and the product."""
        if "down_proj" not in self.shapes:
            return 0
        width = self.shapes["down_proj"][1]
        result = width if self.keeps_input("down_proj") else 0
        if self.kernel("mlp") and "gate_proj" in self.shapes:
            return self.how.size * (2 * width + (0 if self.plain else result))
        gated = "gate_proj" in self.shapes or "gate_up_proj" in self.shapes
        return self.how.size * ((3 if gated else 1) * width + result)


def _norm(features: int, fused: bool, method: Full | Lora, how: Computing, kind: str) -> float:
    """Its input, and one number a token; in plain PyTorch in float32, and, for its weights' gradient, its result."""
    if fused:
        return features * how.exact + (0 if how.on_gpu else 4)
    result = isinstance(method, Full) and kind != _LAYER_NORMS  # PyTorch's own keep two numbers in its place
    return features * 4 + 8 + (features * how.exact if result else 0)


def _attention(of: Architecture, how: Computing, padded: bool, result_needed: bool) -> tuple[float, float]:
    """Queries, keys, values, result and, of each query, the logarithm of its sum."""
    query, shared = of.heads * of.head_size, of.kv_heads * of.head_size
    logs = 4 * of.heads
    again = query if result_needed else 0  # where it lies otherwise in memory than the output layer wants it
    if how.attention == "eager":
        weights = of.heads * (how.size + (4 if how.size < 4 else 0))
        return (3 * query + again) * how.size, weights
    biases = of.heads if of.alibi else int(of.kind == _LAYER_NORMS)  # as a mask, of each text
    tables = 4 * of.head_size if of.kind in ("glm", "glm4") else 0  # of the rotary embedding, in each layer
    if how.packing:
        fast = (
            "attention" in how.kernels
            and not biases
            and (how.on_gpu or (how.in_c and of.head_size % 16 == 0))
        )
        return (2 * (query + shared) + (0 if fast else again)) * how.size + logs + tables, biases * how.size
    if of.alibi:  # one for all layers
        return 4 * query * how.size + logs, biases * how.size / of.layers
    if padded or biases:  # keys and values for each head, and a mask
        return (4 * query + (again if biases else 0)) * how.size + logs + tables, how.size
    return 2 * (query + shared) * how.size + logs + tables, 0
