"""A model's entry in a configuration of OpenCompass, as its version 0.5 reads it."""

from __future__ import annotations

import re
from pathlib import Path

from xtune.convert.native import generator
from xtune.errors import UsageError
from xtune.families import read_config, read_layout
from xtune.families.embedded import model_directory
from xtune.home import write_whole

_CONFIG = """\
# Put this file in configs/models of OpenCompass, or name it:
#   opencompass {file} --datasets gsm8k_gen
from opencompass.models import HuggingFacewithChatTemplate

models = [
    dict(
        type=HuggingFacewithChatTemplate,  # with the chat template that lies beside the weights
        abbr={name!r},
        path={path!r},
        stop_words={stops!r},
        max_seq_len={length},
        max_out_len=1024,
        generation_kwargs=dict(do_sample=False),
        batch_size=8,
        run_cfg=dict(num_gpus=1),
    ),
]
"""


def convert_opencompass(model: str | Path, out: str | Path) -> Path:
    """Write the entry of a model's directory into the new file `out`.

    Raises UsageError where the model needs an adapter or its publisher's code, for which OpenCompass has other entries.
    """
    out = Path(out).expanduser()
    if out.exists():
        raise UsageError(f"{out} exists already.", where="OUT", fix="Name a file that does not exist yet.")
    target = generator(model)
    directory = model_directory(target.base)
    if target.adapter or read_layout(directory, target.options) is not None:
        raise UsageError(
            "OpenCompass is to load a whole model in transformers' layout, and this is none.",
            where=str(model),
            fix=f"First: xtune convert vllm {model} DIR, which serves here too. Then name DIR.",
        )
    name = directory.resolve().name
    text = _CONFIG.format(
        file=out,
        name=re.sub(r"[^\w.-]", "-", name),
        path=str(directory.resolve()),
        stops=list(target.template.stop_tokens),
        length=read_config(directory)["max_position_embeddings"],
    )
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, text)
    return out
