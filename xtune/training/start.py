"""What training starts from: a recipe's tokenizer, template and model."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, get_args

from xtune.errors import RecipeError
from xtune.families import find_family, read_config
from xtune.families.choose_template import Choice, choose_template
from xtune.families.embedded import model_directory
from xtune.families.family import Options
from xtune.families.reward import is_reward_config
from xtune.families.tokenizer import declared_tokens, load_tokenizer
from xtune.model.reward import read_token
from xtune.recipe.objective_schema import Reward
from xtune.recipe.schema import Full, Kernel, Model, Qlora, Recipe
from xtune.run.target import scores_read_at
from xtune.terminal import messages

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def tokenizer_and_template(model: Model) -> tuple[PreTrainedTokenizerFast, Choice]:
    """With the tokens that the recipe adds. Raises UsageError where `model.path` is no model."""
    read_config(model_directory(model.path))
    tokenizer = load_tokenizer(model.path, family=model.family, added_tokens=model.added_tokens)
    choice = choose_template(
        model.template,
        model_directory(model.path),
        family=model.family,
        variables=model.template_variables,
        added_tokens=declared_tokens(tokenizer),
    )
    return tokenizer, choice


def check_base(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse what cannot be learnt with this base: to write, with a reward model; to score, at an unknown token or at
    another than the reward model that it is."""
    objective = recipe.train.objective
    base = model_directory(recipe.model.path)
    if not isinstance(objective, Reward):
        if is_reward_config(read_config(base)):
            raise RecipeError(
                "The base is a reward model: it scores answers, and cannot learn to write them.",
                where="model.path",
                fix='Use objective = "reward", or the language model that it was made of.',
            )
        return
    token = read_token(tokenizer, objective.read_at)
    before = read_token(tokenizer, scores_read_at(base))
    if before not in (None, token):
        raise RecipeError(
            f"The base is a reward model whose scores are read at {tokenizer.convert_ids_to_tokens(before)}.",
            where="train.objective.read_at",
            fix=f"read_at = {tokenizer.convert_ids_to_tokens(before)!r}",
        )


def trainable_model(recipe: Recipe) -> PreTrainedModel:
    """The base as the method wants it, with a new adapter where it has one, and fused kernels; the seed decides how it
    starts."""
    import torch

    from xtune.kernels import native
    from xtune.model.fused import fuse

    asked, idle = _asked(recipe), _idle(recipe)
    in_c = bool(asked) and not torch.cuda.is_available()
    if in_c:
        threading.Thread(target=native.library).start()  # compiles, the first time, while the model is read
    model = _plain_model(recipe)
    if plain := fuse(model, [name for name in asked if name not in idle]):
        messages().print(
            f"kernels  none that fit this model and method for {', '.join(plain)}: plain PyTorch"
        )
    if in_c and model.dtype == torch.float32 and native.library() is None:
        messages().print(
            "kernels  no C compiler (cc) that makes them was found: PyTorch's own, about a fifth slower"
        )
    return model


def _asked(recipe: Recipe) -> list[str]:
    """The fused kernels that the recipe names."""
    fused = recipe.train.fused
    return list(get_args(Kernel) if fused is True else fused or ())


def _idle(recipe: Recipe) -> set[str]:
    """Those that could do nothing for it."""
    from xtune.training.deepspeed import zero_stage

    idle = set()
    if isinstance(recipe.method, Full):
        idle |= {"lora"}
    if isinstance(recipe.train.objective, Reward):
        idle |= {"loss"}
    if zero_stage(recipe.train) == 3:  # which gathers weights where their own layer is called
        idle |= {"lora", "mlp", "attention"}
    return idle


def _plain_model(recipe: Recipe) -> PreTrainedModel:
    from xtune.model.libraries import import_libraries

    import_libraries()
    from transformers import set_seed

    from xtune.model.adapters import attach_adapter
    from xtune.model.added_tokens import add_tokens
    from xtune.model.attention import use_packed_attention
    from xtune.model.load import load_model
    from xtune.model.reward import add_head
    from xtune.training.deepspeed import spreads_weights

    set_seed(recipe.train.seed)
    method, options = recipe.method, recipe.model
    full = isinstance(method, Full)
    qlora = isinstance(method, Qlora)
    # What is spread over the processes need not fit on one GPU; 4-bit weights are made there.
    on_cpu = spreads_weights(recipe.train) and not qlora
    model = load_model(
        options.path,
        # Small steps on bfloat16 weights are rounded away: all of them are trained in float32.
        dtype="float32" if full else options.dtype,
        bits=method.bits if qlora else None,
        attention=options.attention,
        options=Options.of(options),
        double_quantization=qlora and bool(method.double_quantization),
        device="cpu" if on_cpu else None,
    )
    if recipe.data.packing:
        fused = "attention" in _asked(recipe)
        use_packed_attention(model, options.attention, recipe.train.sequence_parallel, fused)
    token_ids = add_tokens(model, options)
    if isinstance(recipe.train.objective, Reward):
        add_head(model, recipe.train.seed)
    if full:
        return model
    family = find_family(model_directory(options.path), options.family)
    whole = None
    if method.init == "loftq":
        whole = load_model(options.path, dtype="bfloat16", options=Options.of(options), device="cpu")
    return attach_adapter(model, method, family.lora_targets, token_ids, whole)
