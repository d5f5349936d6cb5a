"""The chat formats that come with xtune: what their Jinja files do not tell. The third of xtune's lists."""

from __future__ import annotations

from typing import Any

_CHATML: dict[str, Any] = {
    "control_tokens": ("<|im_start|>", "<|im_end|>"),
    "stop_tokens": ("<|im_end|>",),
}

_QWEN_TOKENS = (
    "<|endoftext|>",
    *(
        f"<|{thing}_{edge}|>"
        for thing in ("object_ref", "box", "quad", "vision")
        for edge in ("start", "end")
    ),
    *(f"<|{kind}_pad|>" for kind in ("vision", "image", "video")),
    *(f"<|fim_{part}|>" for part in ("prefix", "middle", "suffix", "pad")),
    "<|repo_name|>",
    "<|file_sep|>",
    *("<tool_call>", "</tool_call>"),
)
"""Of Qwen 2.5; older tokenizers have the first few."""

_LLAMA3: dict[str, Any] = {
    "control_tokens": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "optional_tokens": (
        "<|end_of_text|>",
        "<|eom_id|>",
        "<|python_tag|>",
        "<|finetune_right_pad_id|>",
        "<|step_id|>",
        "<|image|>",
        *(f"<|reserved_special_token_{number}|>" for number in range(251)),
    ),
}

TEMPLATES: dict[str, dict[str, Any]] = {
    "alpaca": {
        "control_tokens": ("<s>", "</s>"),
        "stop_tokens": ("</s>",),
        "optional_tokens": ("<unk>",),
    },
    "baichuan": {
        "control_tokens": ("<reserved_102>", "<reserved_103>", "</s>"),
        "stop_tokens": ("</s>",),
        "optional_tokens": ("<s>", "<unk>"),
        "labels": {"<reserved_102>": "</s>"},
    },
    "baichuan2": {
        "control_tokens": ("<reserved_106>", "<reserved_107>", "</s>"),
        "stop_tokens": ("</s>",),
        "optional_tokens": ("<s>", "<unk>"),
        "labels": {"<reserved_106>": "</s>"},
    },
    "chatglm": {
        "control_tokens": ("[gMASK]", "<sop>", "<eop>"),
        "stop_tokens": ("<eop>",),
        "optional_tokens": ("[MASK]", "[sMASK]", "<s>", "</s>", "<pad>", "<unk>"),
        "one_turn": True,
    },
    "chatglm2": {
        "control_tokens": ("[gMASK]", "sop", "</s>"),
        "stop_tokens": ("</s>",),
        "optional_tokens": ("[MASK]", "[sMASK]", "eop", "<s>", "<unk>"),
        "one_turn": True,
    },
    "chatglm3": {
        "control_tokens": (
            "[gMASK]",
            "sop",
            "<|system|>",
            "<|user|>",
            "<|assistant|>",
            "<|observation|>",
            "</s>",
        ),
        "stop_tokens": ("</s>", "<|user|>", "<|observation|>"),
        "optional_tokens": ("[MASK]", "[sMASK]", "eop", "<s>", "<unk>"),
        "tool_calls": "chatglm3",
    },
    "chatml": _CHATML,
    "deepseek_v2": {
        "control_tokens": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        "stop_tokens": ("<｜end▁of▁sentence｜>",),
    },
    "gemma": {
        "control_tokens": ("<bos>", "<start_of_turn>", "<end_of_turn>"),
        "stop_tokens": ("<end_of_turn>", "<eos>"),
        "optional_tokens": ("<eos>", "<pad>", "<unk>", "<mask>"),
    },
    "glm4": {
        "control_tokens": ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        "stop_tokens": ("<|user|>", "<|observation|>", "<|endoftext|>"),
        "optional_tokens": (
            *("[MASK]", "[sMASK]", "<eop>", "<|endoftext|>"),
            *(f"<|{edge}_of_{kind}|>" for kind in ("image", "video") for edge in ("begin", "end")),
        ),
        "tool_calls": "glm4",
    },
    "internlm": {
        "control_tokens": ("<s>", "<eoa>"),
        "stop_tokens": ("<eoa>", "</s>"),
        "optional_tokens": ("<eoh>", "</s>", "<unk>"),
    },
    "internlm2": {
        "control_tokens": (
            *("<s>", "<|im_start|>", "<|im_end|>"),
            *("<|action_start|>", "<|action_end|>", "<|plugin|>", "<|interpreter|>"),
        ),
        "stop_tokens": ("<|im_end|>", "</s>"),
        "optional_tokens": ("</s>", "<unk>"),
        "tool_calls": "internlm2",
    },
    "internlm_v1_0": {
        "control_tokens": ("<s>", "<eoh>", "<eoa>"),
        "stop_tokens": ("<eoa>", "</s>"),
        "optional_tokens": ("</s>", "<unk>"),
    },
    "llama2": {
        "control_tokens": ("<s>", "</s>"),
        "stop_tokens": ("</s>",),
        "optional_tokens": ("<unk>",),
    },
    "llama3": {**_LLAMA3, "stop_tokens": ("<|eot_id|>", "<|end_of_text|>")},
    "llama3_1": {
        **_LLAMA3,
        "stop_tokens": ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
        "variables": {"date_string": "26 Jul 2024"},
        "tool_calls": "llama3_1",
    },
    "mistral": {
        "control_tokens": ("<s>", "</s>"),
        "stop_tokens": ("</s>",),
        "optional_tokens": ("<unk>",),
    },
    "phi3": {
        "control_tokens": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"),
        "stop_tokens": ("<|end|>", "<|endoftext|>"),
        "optional_tokens": ("<s>", "</s>", "<unk>"),
    },
    "qwen": {
        "control_tokens": ("<|im_start|>", "<|im_end|>"),
        "stop_tokens": ("<|im_end|>", "<|im_start|>", "<|endoftext|>"),
        "optional_tokens": ("<|endoftext|>", *(f"<|extra_{number}|>" for number in range(205))),
        "tool_calls": "react",
    },
    "qwen2": {**_CHATML, "stop_tokens": ("<|im_end|>", "<|endoftext|>"), "optional_tokens": _QWEN_TOKENS},
    "qwen2_5": {
        **_CHATML,
        "stop_tokens": ("<|im_end|>", "<|endoftext|>"),
        "optional_tokens": _QWEN_TOKENS,
        "tool_calls": "hermes",
    },
    "qwen3": {
        **_CHATML,
        "stop_tokens": ("<|im_end|>", "<|endoftext|>"),
        "optional_tokens": (*_QWEN_TOKENS, "<tool_response>", "</tool_response>", "<think>", "</think>"),
        "variables": {"enable_thinking": None},
        "tool_calls": "hermes",
        "one_turn": True,
    },
    "smollm2": _CHATML,
    "vicuna": {
        "control_tokens": ("<s>", "</s>"),
        "stop_tokens": ("</s>",),
        "optional_tokens": ("<unk>",),
    },
    "yi": {
        "control_tokens": ("<|im_start|>", "<|im_end|>"),
        "stop_tokens": ("<|im_end|>", "<|endoftext|>"),
        "optional_tokens": ("<|startoftext|>", "<|endoftext|>", "<|im_sep|>", "<unk>"),
    },
    "zephyr": {
        "control_tokens": ("</s>",),
        "stop_tokens": ("</s>",),
        "optional_tokens": ("<s>", "<unk>"),
    },
}
"""The fields of Template beside name and source, by the name of the .jinja file in this directory."""

ALIASES: dict[str, str] = {
    "baichuan2_chat": "baichuan2",
    "baichuan_chat": "baichuan",
    "code_llama_chat": "llama2",
    "deepseek_moe": "deepseek_v2",
    "internlm2_chat": "internlm2",
    "internlm3": "internlm2",
    "internlm_chat": "internlm",
    "llama2_chat": "llama2",
    "llama3_2": "llama3_1",
    "llama3_3": "llama3_1",
    "llama3_chat": "llama3",
    "mixtral": "mistral",
    "phi3_chat": "phi3",
    "qwen1_5": "qwen2",
    "qwen_chat": "qwen",
    "wizardcoder": "alpaca",
    "wizardlm": "vicuna",
}
"""Other names of formats, as XTuner's PROMPT_TEMPLATE has them, where they mean the same model."""
