"""The sections `model`, `method` and `train.objective` of an XTuner config's model."""

from __future__ import annotations

from typing import Any, get_args

from xtune.recipe.legacy.old_config import OldConfig, last_name
from xtune.recipe.objective_schema import Dpo
from xtune.recipe.schema import RopeScaling

_QKV = ["q_proj", "k_proj", "v_proj"]
_NATIVE = {
    **dict.fromkeys(("wqkv", "W_pack", "query_key_value"), _QKV),
    **{name: [name] for name in (*_QKV, "o_proj", "gate_proj", "up_proj", "down_proj")},
    "wo": ["o_proj"],
}
"""Layers of publishers' code, by their names in transformers."""
_INTERNLM2 = {"w1": ["gate_proj"], "w2": ["down_proj"], "w3": ["up_proj"]}

_LOSSES = {"sppo_hard": "sppo", "nca_pair": "nca"}
_READ_AT = {92527: "[UNUSED_TOKEN_130]"}  # InternLM2's


def import_model(old: OldConfig) -> dict[str, Any]:
    """The recipe's sections `model` and `method` and, as "objective", what is learnt.

    Raises UsageError where it is no language model.
    """
    kind = last_name(old.values.get("type"))
    if "LLaVA" in kind or "InternVL" in kind:
        fix = "Train it with XTuner, or only its language model here."
        raise old.wrong("type", kind, "xtune trains language models, and this one sees images", fix)
    objectives = {"SupervisedFinetune": None, "DPO": _dpo, "ORPO": _orpo, "RewardModel": _reward}
    if kind not in objectives:
        fix = f"Models that can be imported are {', '.join(objectives)}."
        raise old.wrong("type", kind or None, "this kind of model is not known", fix)
    language_model = old.part("llm")
    model: dict[str, Any] = {"path": language_model.take("pretrained_model_name_or_path")}
    if not isinstance(model["path"], str):
        raise language_model.wrong(
            "pretrained_model_name_or_path", model["path"], "no path", "Name the model."
        )
    bits = _bits(language_model)
    method = _method(old, model["path"], bits, language_model)
    if language_model.values.get("torch_dtype") == "torch.float32" and method["kind"] == "lora":
        model["dtype"] = language_model.take("torch_dtype").removeprefix("torch.")
    _import_rope(old, language_model, model)
    if adapter := old.take("peft_model"):
        text = "make an adapter of it (xtune convert pth), merge that, and name the model as model.path"
        old.note("peft_model", adapter, text)
    reference = (old.take("ref_llm") or {}).get("pretrained_model_name_or_path")
    if reference not in (None, model["path"]):
        old.note("ref_llm", reference, "the reference is the model before training")
    objective = objectives[kind](old) if objectives[kind] else None
    return {"model": model, "method": method, "objective": objective}


def _bits(old: OldConfig) -> dict[str, Any]:
    """What is said of quantisation, as options of qlora; empty where the weights are whole."""
    quantisation = old.part("quantization_config")
    four, eight = (
        any([old.take(name), quantisation.take(name)]) for name in ("load_in_4bit", "load_in_8bit")
    )
    quantisation.kind()
    double = quantisation.take("bnb_4bit_use_double_quant", False)
    for name in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"):
        quantisation.take(name)
    for name, usual in (
        ("bnb_4bit_quant_type", "nf4" if four else "fp4"),
        ("llm_int8_threshold", 6.0),
        ("llm_int8_has_fp16_weight", False),
    ):
        if (value := quantisation.take(name, usual)) != usual:
            quantisation.note(name, value, f"xtune has {usual!r}")
    if four:
        return {"bits": 4} if double else {"bits": 4, "double_quantization": False}
    return {"bits": 8} if eight else {}


def _method(old: OldConfig, path: str, bits: dict[str, Any], language_model: OldConfig) -> dict[str, Any]:
    if old.values.get("lora") is None:
        old.take("lora")
        if bits:
            text = "all weights are trained, which quantised ones cannot be"
            language_model.note("quantization_config", bits, text)
        language_model.take("torch_dtype")  # training is of float32 weights, mixed with what the device has
        return {"kind": "full"}
    lora = old.part("lora")
    if (kind := lora.kind()) not in ("LoraConfig", "dict"):
        raise lora.wrong("type", kind, "the only adapters here are LoRA's", 'Use method = dict(kind="lora").')
    method = {
        "kind": "qlora" if bits else "lora",
        "rank": lora.take("r", 8),
        "alpha": lora.take("lora_alpha", 8),
        "dropout": lora.take("lora_dropout", 0.0),
        "rslora": lora.take("use_rslora", False),
        "dora": lora.take("use_dora", False),
        "layers": lora.take("layers_to_transform"),
        **bits,
    }
    begin = lora.take("init_lora_weights", True)
    if begin in ("gaussian", "pissa", "olora"):
        method["init"] = begin
    elif begin is not True:
        lora.note("init_lora_weights", begin, "the factors begin as usual")
    if (bias := lora.take("bias", "none")) != "none":
        lora.note("bias", bias, "biases are not trained")
    if targets := lora.take("target_modules"):
        method["targets"] = _targets(lora, targets, path)
    lora.take("task_type")
    lora.take("inference_mode")
    return {name: value for name, value in method.items() if value is not None}


def _targets(lora: OldConfig, targets: str | list[str], path: str) -> str | list[str]:
    if isinstance(targets, str):
        return targets
    internlm2 = "internlm2" in path.lower() or {"wqkv", "wo"} & set(targets)
    native = _NATIVE | (_INTERNLM2 if internlm2 else {})
    if unknown := [name for name in targets if name not in native]:
        lora.note("target_modules", unknown, "kept; layers have the names they have in transformers")
    return list(dict.fromkeys(new for name in targets for new in native.get(name, [name])))


def _import_rope(old: OldConfig, language_model: OldConfig, model: dict[str, Any]) -> None:
    if scaling := language_model.take("rope_scaling"):
        kinds = get_args(RopeScaling.model_fields["type"].annotation)
        if scaling.get("type") in kinds and set(scaling) <= RopeScaling.model_fields.keys():
            model["rope_scaling"] = scaling
        else:
            language_model.note(
                "rope_scaling", scaling, f"types of model.rope_scaling are {', '.join(kinds)}"
            )
    if length := old.take("max_position_embeddings"):
        text = 'model.rope_scaling = dict(type="linear", factor=…), by how many times the model\'s own length'
        old.note("max_position_embeddings", length, text)
    if old.take("use_activation_checkpointing", True) is False:
        model["gradient_checkpointing"] = False  # goes to train


def _dpo(old: OldConfig) -> dict[str, Any]:
    loss = old.take("loss_type", "sigmoid")
    objective = {"kind": "dpo", "loss": _LOSSES.get(loss, loss), "beta": old.take("beta", 0.1)}
    if objective["loss"] not in get_args(Dpo.model_fields["loss"].annotation):
        del objective["loss"]
        old.note("loss_type", loss, 'DPO\'s own loss, "sigmoid", takes its place')
    smoothing = old.take("label_smoothing", 0.0)
    if smoothing and objective.get("loss", "sigmoid") in ("sigmoid", "robust"):
        objective["label_smoothing"] = smoothing
    elif smoothing:
        old.note("label_smoothing", smoothing, f"{loss} has none")
    return objective


def _orpo(old: OldConfig) -> dict[str, Any]:
    return {"kind": "orpo", "weight": old.take("beta", 0.1)}


def _reward(old: OldConfig) -> dict[str, Any]:
    objective: dict[str, Any] = {"kind": "reward", "loss": old.take("loss_type", "ranking")}
    penalty, weight = old.take("penalty_type", "log_barrier"), old.take("penalty_weight", 0.01)
    if penalty == "log_barrier":
        objective["barrier"] = weight
    elif penalty != "none":
        old.note("penalty_type", penalty, "the only penalty is the barrier, train.objective.barrier")
    else:
        objective["barrier"] = 0
    if (token := old.take("reward_token_id")) is not None:
        objective["read_at"] = read_at(old, token)
    return objective


def read_at(old: OldConfig, token: int) -> str | None:
    """The text of the token at which a reward model's score is read, of which XTuner gives the id."""
    if token not in _READ_AT:
        old.note("reward_token_id", token, "give the token's text as train.objective.read_at")
    return _READ_AT.get(token)
