"""Write a checkpoint such as Nuthatch's publisher would ship, with random weights: python make_checkpoint.py DIR"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from xtune.families.embedded import model_directory

directory = Path(sys.argv[1])
config = {
    "model_type": "nuthatch",
    "auto_map": {"AutoModelForCausalLM": "modeling_nuthatch.Nuthatch"},  # code that nobody needs any more
    "vocab_size": 49152,
    "width": 32,
    "ffn_width": 64,
    "blocks": 2,
    "heads": 4,
    "kv_heads": 2,
    "context": 512,
    "norm_eps": 1e-5,
    "rope_base": 10000.0,
    "torch_dtype": "bfloat16",
}
width, ffn, size = config["width"], config["ffn_width"], config["width"] // config["heads"]
shapes = {
    "trunk.embed": (config["vocab_size"], width),
    "trunk.norm": (width,),
    "head": (config["vocab_size"], width),
}
for block in range(config["blocks"]):
    shapes |= {
        f"trunk.blocks.{block}.norm1": (width,),
        f"trunk.blocks.{block}.attn.qkv": ((config["heads"] + 2 * config["kv_heads"]) * size, width),
        f"trunk.blocks.{block}.attn.out": (width, width),
        f"trunk.blocks.{block}.norm2": (width,),
        f"trunk.blocks.{block}.ffn.gate": (ffn, width),
        f"trunk.blocks.{block}.ffn.up": (ffn, width),
        f"trunk.blocks.{block}.ffn.down": (width, ffn),
    }
torch.manual_seed(0)
tensors = {
    f"{name}.weight": (torch.ones(shape) if len(shape) == 1 else 0.05 * torch.randn(shape)).bfloat16()
    for name, shape in shapes.items()
}

directory.mkdir(parents=True)
save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
(directory / "config.json").write_text(json.dumps(config, indent=2))
for name in ("tokenizer.json", "tokenizer_config.json"):  # SmolLM2's, which comes along with xtune
    shutil.copyfile(model_directory("smollm2") / name, directory / name)
