"""Whether merged weights do what the base and the adapters beside it do.

Where the model fits into memory in float32, both answer prompts (or score answers); else each layer that was
changed, as it stands on the disk, is fed with random numbers, and all other tensors are compared bit by bit.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xtune.chat.reward import ready
from xtune.convert.adapted import Adapted, base_of
from xtune.convert.compare import (
    ANSWER_TOKENS,
    Behaviour,
    largest_difference,
    logits_of,
    observe,
    same_answers,
)
from xtune.convert.nf4 import Nf4
from xtune.convert.shards import Merging
from xtune.convert.weights import StoredWeights
from xtune.errors import UsageError
from xtune.families import read_layout
from xtune.families.family import Options
from xtune.messages import Message
from xtune.model.devices import choose_device
from xtune.model.health import check_tensors, meta_model, read_weights
from xtune.model.load import load_model
from xtune.run.memory import free_memory
from xtune.run.target import Target
from xtune.terminal import progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_ANSWERS = (
    ("Who are you?", "I am an assistant, here to help you."),
    ("Write a short poem about the sea.", "The sea is wide, the sea is deep."),
    ("中国的首都是哪里？", "中国的首都是北京。"),
    ("请用一句话介绍你自己。", "我不知道。"),
)
_ROOM = 1.3  # times the weights in float32, for what computing with them takes


@dataclass(frozen=True)
class LogitsCheck:
    """Answers of the merged model, and of the base with the adapters beside it, both in float32.

    prompts              how many were answered by both
    same_answers         how many of the greedy answers were the same to the last token
    largest_difference   of logits at any token of any prompt or answer
    adapter_effect       the same between the base with and without the adapters, as a yardstick
    from_training        the same between the merged model and adapters beside the 4-bit weights that they were
                         trained beside; None where there were none, or these were merged into
    """

    prompts: int
    same_answers: int
    largest_difference: float
    adapter_effect: float
    from_training: float | None = None

    def __str__(self) -> str:
        same = "all the same" if self.same_answers == self.prompts else f"{self.same_answers} the same"
        lines = [
            f"logits   differ by at most {self.largest_difference:.2g} from base + adapter (the adapter moves them by"
            f" up to {self.adapter_effect:.2g})",
            f"answers  to {self.prompts} prompts, {ANSWER_TOKENS} tokens each, greedy: {same}",
        ]
        if self.from_training is not None:
            lines.append(
                f"trained  beside 4-bit weights, from which logits differ by at most {self.from_training:.2g}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class ScoresCheck:
    """Scores of a merged reward model, and of the base with the adapters beside it, both in float32.

    texts                how many were scored by both
    largest_difference   of any of them
    lowest, highest      score, as a yardstick
    """

    texts: int
    largest_difference: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return (
            f"scores   of {self.texts} answers, from {self.lowest:.2f} to {self.highest:.2f}, differ by at most"
            f" {self.largest_difference:.2g} from base + adapter"
        )


@dataclass(frozen=True)
class LayersCheck:
    """Layer by layer, where the model does not fit into memory in float32.

    layers               that were compared, on random inputs; all other tensors are the base's, bit by bit
    largest_difference   of a layer's outputs, as a share of the largest of them
    adapter_effect       the same between the layer with and without the adapters, as a yardstick
    """

    layers: int
    largest_difference: float
    adapter_effect: float

    def __str__(self) -> str:
        return (
            "checked  layer by layer, since the model does not fit into memory in float32\n"
            f"layers   {self.layers}, on random inputs, differ by at most {self.largest_difference:.2g} of their"
            f" largest output from base + adapter (the adapter moves them by up to {self.adapter_effect:.2g}); all"
            " other tensors are the base's"
        )


@dataclass(frozen=True)
class Before:
    """What the base with the adapters beside it says; of a reward model, the scores."""

    device: str
    behaviour: Behaviour | None = None
    effect: float = 0.0
    in_training: list[Tensor] | None = None
    scores: list[float] | None = None


def device_for(model: PreTrainedModel) -> str | None:
    """Where a model of such shapes fits in float32: the GPU, or the CPU, which takes longer; None: nowhere."""
    import torch

    size = _ROOM * sum(4 * weight.numel() for weight in model.parameters())
    return next((each for each in (choose_device(), "cpu") if free_memory(torch.device(each)) > size), None)


def observe_before(
    target: Target,
    adapted: Adapted,
    device: str,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Sequence[int]],
    stops: Sequence[int],
    *,
    into: Nf4 | None,
    trained_beside: Nf4 | None,
) -> Before:
    """Base and adapters in float32. `adapted` is used up.

    into             the 4-bit weights that are merged into
    trained_beside   those of training, where others are merged into
    """
    from xtune.convert.beside import prepare_base, put_beside, without_adapters

    model = load_model(target.base, dtype="float32", device=device, options=target.options)
    prepare_base(model, adapted, reward=target.reward)
    if into:
        _round(model, into)
    put_beside(model, adapted)
    if target.reward:
        return Before(device, scores=_scores(model, target, tokenizer))
    pad = tokenizer.pad_token_id
    behaviour = observe(model, prompts, stops=stops, pad=pad)
    with without_adapters(model):
        effect = largest_difference(behaviour.logits, logits_of(model, behaviour.texts, pad))
    in_training = None
    if trained_beside:
        _round(model, trained_beside)
        in_training = logits_of(model, behaviour.texts, pad)
    return Before(device, behaviour, effect, in_training)


def _round(model: PreTrainedModel, nf4: Nf4) -> None:
    for name in nf4.layers:
        weight = model.get_submodule(name).weight
        weight.data = nf4.seen(weight.data)


def check_loaded(
    directory: Path,
    options: Options,
    target: Target,
    before: Before,
    tokenizer: PreTrainedTokenizerFast,
) -> LogitsCheck | ScoresCheck:
    """Load the merged model from `directory` in float32, and compare: what differs comes of rounding alone."""
    model = load_model(directory, dtype="float32", device=before.device, options=options)
    if before.scores is not None:
        after = _scores(model, target, tokenizer)
        difference = max(abs(one - other) for one, other in zip(before.scores, after, strict=True))
        return ScoresCheck(len(after), difference, min(before.scores), max(before.scores))
    expected = before.behaviour
    logits = logits_of(model, expected.texts, tokenizer.pad_token_id)
    difference = largest_difference(expected.logits, logits)
    trained = None if before.in_training is None else largest_difference(before.in_training, logits)
    return LogitsCheck(len(logits), same_answers(expected, logits), difference, before.effect, trained)


def check_layers(directory: Path, options: Options, merging: Merging, again: Adapted) -> LayersCheck:
    """Compare the layers written to `directory`, one at a time, with the base's and the adapters beside them.

    again   the adapters, read anew

    Raises UsageError where a layer differs by more than rounding, a tensor lacks, or another is not the base's.
    """
    import torch

    layout = read_layout(directory, options)
    model = meta_model(directory, layout, options)
    for problem in check_tensors(read_weights(directory), directory, model, layout):
        raise UsageError(problem.summary, where=problem.where, fix=problem.fix)
    written = StoredWeights(directory, layout, merging.adapted.model)
    difference = effect = 0.0
    random = torch.Generator().manual_seed(0)
    changed = again.changed()
    others = [
        name
        for name in merging.shapes
        if name not in changed - again.replaced.keys() and name in written.places
    ]
    layers = list(again.layers)
    with progress("Checking", len(layers) + len(others), "tensors") as advance, torch.inference_mode():
        for name in layers:
            held = again.layers.pop(name)  # it will hold the base's weights
            off, moved = _compare_layer(merging, written, name, held, again, random)
            difference, effect = max(difference, off), max(effect, moved)
            advance(1)
        for name in others:
            tensor = written.part(name)
            if name in {*merging.changed, *merging.rows, *merging.added}:
                ours = merging.beside_layers(name, torch.float32).to(tensor.dtype)
            else:
                ours = merging.stored.part(name)
            if not (merging.normalised and name == merging.output) and not torch.equal(ours, tensor):
                raise _is_off(name, "differ from the base's")
            advance(1)
    return LayersCheck(len(layers), difference, effect)


def _compare_layer(
    merging: Merging,
    written: StoredWeights,
    name: str,
    held: dict[int, Module],
    adapted: Adapted,
    random: torch.Generator,
) -> tuple[float, float]:
    """How far the outputs of a layer are off, and how far the adapters move them."""
    import torch

    from xtune.convert.beside import Beside

    base = base_of(next(iter(held.values())))
    kinds = [kind for kind, _ in base.named_parameters(recurse=False)]
    if not kinds:  # of a block that is trained as a whole, each weight is compared
        return 0.0, 0.0
    ours = {kind: merging.read(f"{name}.{kind}", torch.float32) for kind in kinds}
    theirs = {}
    for kind in kinds:
        place = f"{name}.{kind}"
        if place not in written.places and place == merging.output:  # tied
            place = merging.embedding
        theirs[kind] = written.part(place)
    rounding = max(torch.finfo(weight.dtype).eps for weight in theirs.values())
    plain, merged, bound = (_with(base, weights) for weights in (ours, theirs, _absolute(theirs)))
    inputs = _inputs(plain, adapted.token_ids, random)
    first, last = plain(inputs), merged(inputs)
    beside = Beside(plain, held, adapted.weights)(inputs)
    largest = beside.abs().max().item() or 1.0
    limit = rounding * bound(inputs.abs()) + 1e-5 * largest
    if not ((last - beside).abs() <= limit).all():
        raise _is_off(name, "do not give what base and adapter give")
    return ((last - beside).abs().max() / largest).item(), ((beside - first).abs().max() / largest).item()


def _absolute(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {kind: weight.abs() for kind, weight in weights.items()}


def _with(layer: Module, weights: dict[str, Tensor]) -> Module:
    """A copy of a layer that has no weights, with weights in float32."""
    import torch

    layer = copy.deepcopy(layer)
    for kind, tensor in weights.items():
        setattr(layer, kind, torch.nn.Parameter(tensor.float(), requires_grad=False))
    return layer


def _inputs(layer: Module, token_ids: Collection[int], random: torch.Generator) -> Tensor:
    """Random inputs for a layer, and its added tokens."""
    import torch

    if isinstance(layer, torch.nn.Embedding):
        return torch.cat(
            [torch.randint(len(layer.weight), (64,), generator=random), torch.tensor([*token_ids]).long()]
        )
    return torch.randn(8, getattr(layer, "in_features", layer.weight.shape[0]), generator=random)


def _is_off(name: str, what: str) -> UsageError:
    return UsageError(
        f"The merged weights of {name} {what}.",
        where="check of the layers",
        fix="Nothing was kept. Merge with more memory, which checks the whole model; and please report this.",
    )


def _scores(model: PreTrainedModel, target: Target, tokenizer: PreTrainedTokenizerFast) -> list[float]:
    texts = [[Message("user", one), Message("assistant", other)] for one, other in _ANSWERS]
    return ready(model, target, tokenizer).score(texts)
