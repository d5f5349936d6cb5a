"""The two things that happen to weights between a publisher's layout and transformers' own, each both ways.

    Rename    model.layers.0.feed_forward.w1.weight   <->  model.layers.0.mlp.gate_proj.weight
    Fused     model.layers.0.attention.wqkv.weight    <->  …self_attn.{q_proj, k_proj, v_proj}.weight

The rows of a fused layer are either three blocks, or come in one group for each key-value head. With 4 heads
on 2 key-value heads:
    blocks    q0 q1 q2 q3 k0 k1 v0 v1
    groups    q0 q1 k0 v0 q2 q3 k1 v1
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Rename(NamedTuple):
    """Part of a tensor's name in the two layouts. It ends where a name ends, so with a dot, on both sides."""

    original: str
    native: str


class Fused(NamedTuple):
    """A fused query-key-value layer: its name in the publisher's layout, and how its rows are ordered."""

    original: str
    rows: Literal["blocks", "groups"]
    native: tuple[str, str, str] = (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj.")


def heads(config: Any) -> tuple[int, int, int]:
    """(query heads, key-value heads, dimension of a head) of a native config."""
    query = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // query
    return query, getattr(config, "num_key_value_heads", None) or query, size


def split_rows(fused: Tensor, rows: str, config: Any) -> tuple[Tensor, Tensor, Tensor]:
    """[(query heads + 2 key-value heads) * head size, ...] to query, key and value rows. Also for biases, and
    for the second factor of a LoRA adapter, whose first serves all three unchanged."""
    query, groups, size = heads(config)
    if rows == "blocks":
        return fused.split([query * size, groups * size, groups * size])
    rest, shared = fused.shape[1:], query // groups
    by_group = fused.reshape(groups, shared + 2, size, *rest)
    return (
        by_group[:, :shared].reshape(query * size, *rest),
        by_group[:, shared].reshape(groups * size, *rest),
        by_group[:, shared + 1].reshape(groups * size, *rest),
    )


def join_rows(parts: tuple[Tensor, Tensor, Tensor], rows: str, config: Any) -> Tensor:
    """The inverse of split_rows."""
    import torch

    if rows == "blocks":
        return torch.cat(parts)
    _, groups, size = heads(config)
    rest = parts[0].shape[1:]
    by_group = [part.reshape(groups, -1, size, *rest) for part in parts]
    return torch.cat(by_group, dim=1).reshape(-1, *rest)


def original_name(name: str, weights: tuple[Rename | Fused, ...]) -> str:
    """A tensor's name in the publisher's layout; of a part of a fused layer, the whole's."""
    for entry in reversed(weights):
        if isinstance(entry, Fused):
            for part in entry.native:
                name = name.replace(part, entry.original)
        else:
            name = _replace(name, entry.native, entry.original)
    return name


def native_name(name: str, weights: tuple[Rename | Fused, ...]) -> str:
    """A tensor's name in transformers' layout; of a fused layer, with the original's last part left in."""
    for entry in weights:
        if isinstance(entry, Rename):
            name = _replace(name, entry.original, entry.native)
    return name


def _replace(name: str, old: str, new: str) -> str:
    # `^model.` only where a name begins: `transformer.` may stand elsewhere in it as well
    if old.startswith("^"):
        return new.removeprefix("^") + name[len(old) - 1 :] if name.startswith(old[1:]) else name
    return name.replace(old, new.removeprefix("^"))
