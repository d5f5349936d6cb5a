"""How long a checkpoint in its publisher's layout takes to load, and how much memory, against transformers loading
the same weights in its own layout.

    python benchmarks/loading.py [--layers 12] [--rounds 5]

Each load runs in a process of its own, in turns, after one of each that warms the disk cache. transformers maps
files into memory where it has nothing to convert, and so reads nothing until the first use: what counts is the time to
the first logits; that of the call alone is kept beside it. Memory is the highest resident size by then over that
before, as a multiple of the weights' bytes.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

RESULT = Path(__file__).parent / "results" / "loading.json"
CONFIGS = {
    "internlm2": {
        "architectures": ["InternLM2ForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"},
        "model_type": "internlm2",
        "bias": False,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "max_position_embeddings": 32768,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 32000,
    },
    "baichuan": {
        "architectures": ["BaiChuanForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_baichuan.BaiChuanForCausalLM"},
        "model_type": "baichuan",
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "num_attention_heads": 16,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 32000,
    },
}


def make(family: str, layers: int, folder: Path) -> tuple[Path, Path]:
    """The same random weights in the publisher's layout and in transformers' own, both in shards."""
    from safetensors.torch import save_file
    from transformers import LlamaForCausalLM

    from xtune.convert.layout import original_tensors
    from xtune.families import read_layout
    from xtune.families.family import Options

    original, native = folder / f"{family}_original", folder / f"{family}_native"
    original.mkdir()
    (original / "config.json").write_text(json.dumps({**CONFIGS[family], "num_hidden_layers": layers}))
    layout = read_layout(original, Options())
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(layout.native_config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(native, max_shard_size="500MB")
    tensors = dict(original_tensors(model.state_dict(), layout, model.config))
    names = list(tensors)
    parts = [names[: len(names) // 2], names[len(names) // 2 :]]
    index = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, original / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    (original / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return original, native


def load(kind: str, directory: str) -> None:
    """In a process of its own: load, and print seconds and bytes."""
    import transformers.models.llama.modeling_llama  # imports are not what is measured

    from xtune.model.load import load_model
    from xtune.terminal import quiet_libraries

    quiet_libraries()
    if kind == "xtune":
        import xtune.model.original  # noqa: F401
    before = highest_resident_size()
    start = time.perf_counter()
    if kind == "xtune":
        model = load_model(directory, dtype="bfloat16", device="cpu")
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    called = time.perf_counter() - start
    with torch.inference_mode():
        logits = model(input_ids=torch.arange(4)[None]).logits
    seconds = time.perf_counter() - start
    used = highest_resident_size() - before
    print(json.dumps({"call": called, "seconds": seconds, "bytes": used, "check": logits.sum().item()}))


def highest_resident_size() -> int:
    """Bytes, since the start of the process or the last call."""
    status = Path("/proc/self/status").read_text()
    peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    Path("/proc/self/clear_refs").write_text("5")
    return peak * 1024


def measure(kind: str, directory: Path) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--load", kind, str(directory)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--load", nargs=2, metavar=("KIND", "DIRECTORY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        load(*arguments.load)
        return
    results = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "families": {},
    }
    for family in CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            original, native = make(family, arguments.layers, Path(folder))
            size = sum(file.stat().st_size for file in native.glob("*.safetensors"))
            runs: dict[str, list[dict]] = {"xtune": [], "transformers": []}
            for turn in range(arguments.rounds + 1):
                for kind, directory in (("xtune", original), ("transformers", native)):
                    run = measure(kind, directory)
                    if turn:
                        runs[kind].append(run)
        checks = {run["check"] for done in runs.values() for run in done}
        assert len(checks) == 1, f"not the same model: {checks}"
        calls = {kind: statistics.median(run["call"] for run in done) for kind, done in runs.items()}
        seconds = {kind: statistics.median(run["seconds"] for run in done) for kind, done in runs.items()}
        memory = {kind: max(run["bytes"] for run in done) / size for kind, done in runs.items()}
        ratio = seconds["xtune"] / seconds["transformers"]
        results["families"][family] = {
            "weights_bytes": size,
            "median_seconds_to_first_logits": seconds,
            "median_seconds_of_the_call": calls,
            "time_ratio": ratio,
            "peak_memory_over_weights": memory,
        }
        print(
            f"{family:10} {size / 1e9:.2f} GB  xtune {seconds['xtune']:.2f} s, transformers "
            f"{seconds['transformers']:.2f} s: {ratio:.2f} times; memory {memory['xtune']:.2f} and "
            f"{memory['transformers']:.2f} times the weights"
        )
    RESULT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
