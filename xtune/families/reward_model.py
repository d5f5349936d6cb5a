"""Any causal language model as a reward model, with a head in the place of its output layer."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from xtune.errors import UsageError
from xtune.families.reward import HEAD, is_reward_config

# What some models do to their outputs (Gemma 2, Cohere, Granite), and what switches it off, as classifiers have it.
_SCALED = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}


class ScoreHead(nn.Linear):
    """Computes in float32, whatever the model does: bfloat16 knows no score between 4 and 4.03."""

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., hidden] -> float32 [..., 1]"""
        with torch.autocast(hidden.device.type, enabled=False):
            return linear(hidden.float(), self.weight.float())


@cache
def reward_class(model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A class of causal language models with the head in place of the output layer.

    Its forward gives scores where it would give logits: [rows, columns kept, 1].
    """

    class RewardModel(model_class):
        from_config = classmethod(lambda cls, config: cls(config))  # as AutoModelForCausalLM has it
        _tied_weights_keys = None
        lm_head = property(lambda self: getattr(self, HEAD))  # where forward looks for it

        def __init__(self, config):
            super().__init__(config)
            put_head(self)

        def get_output_embeddings(self):
            return None  # it has no row for each token

    name = model_class.__name__.replace("ForCausalLM", "RewardModel")
    RewardModel.__name__ = RewardModel.__qualname__ = name
    return RewardModel


def native_class(config: PreTrainedConfig) -> type:
    """What builds and loads a model in transformers' own layout: a class with from_pretrained and from_config."""
    if is_reward_config({"architectures": config.architectures}):
        return reward_class(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])
    return AutoModelForCausalLM


def put_head(model: PreTrainedModel) -> None:
    """Put an empty head in the place of a model's output layer, of whichever class it is so far."""
    if "lm_head" not in model._modules:
        raise UsageError(
            f"{type(model).__name__} cannot become a reward model: its output layer is not lm_head.",
            where="model.path",
            fix="Use a model of a family that xtune knows.",
        )
    config = model.config.get_text_config()
    del model._modules["lm_head"]
    model.add_module(HEAD, ScoreHead(config.hidden_size, 1, bias=False))
    config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}
    model.config.num_labels = 1
    for name, neutral in _SCALED.items():
        for owner in (config, model):
            if hasattr(owner, name):
                setattr(owner, name, neutral)
