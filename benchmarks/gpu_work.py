"""What the contestants of gpu_speed.py train: a model of random weights, and conversations of random words.

python benchmarks/gpu_work.py make WORK       the model, the data, and xtune's ids and labels for the peers
python benchmarks/gpu_work.py product WORK    times a product of large matrices
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SHAPES = {  # hidden, intermediate, layers, heads, vocabulary
    "7b": (4096, 11008, 32, 32, 32000),  # LLaMA-2-7B
    "tiny": (64, 128, 2, 4, 2000),
}
# Samples a step, longest, and quantiles, evenly spaced, of the tokens of prompts and answers. "short" is as
# alpaca_en_demo.json with SmolLM2's tokenizer: 192 tokens a sample, of which 74 % have loss.
SETTINGS = {
    "short": (
        32,
        512,
        (34, 39, 41, 42, 44, 46, 49, 52, 55, 64, 130),
        (2, 11, 19, 37, 63, 101, 148, 216, 285, 345, 450),
    ),
    "long": (4, 2048, (200, 300, 400), (1500, 1600, 1700)),
}
RANK, ALPHA, LR, SEED = 16, 32, 1e-4, 0
_FRAME = 11  # tokens that the template puts around a prompt and its answer


@dataclass(frozen=True)
class Task:
    """What a run compares, as it stands in WORK/task.json for its processes."""

    work: Path
    shape: str
    settings: tuple[str, ...]
    steps: int
    device: str
    profile: bool

    def write(self) -> None:
        (self.work / "task.json").write_text(json.dumps({**vars(self), "work": str(self.work)}))

    @classmethod
    def read(cls, work: Path) -> Task:
        return cls(**{**json.loads((work / "task.json").read_text()), "work": work})

    @property
    def model(self) -> Path:
        return self.work / "model"

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def rows(self, setting: str) -> list[dict]:
        """For the peers: input_ids and labels, in the order of xtune's steps."""
        return json.loads((self.work / f"{setting}.rows.json").read_text())


def passes(options: list[str]) -> int:
    """Forward passes a step, of a contestant's options."""
    return next((int(option[1:]) for option in options if option[0] == "x"), 1)


def checkpointing(options: list[str], otherwise: bool | str) -> bool | str:
    """Whether activations are computed again."""
    return next((option == "gc" for option in options if option in ("gc", "nogc")), otherwise)


def recipe(task: Task, setting: str, method: str, options: list[str]):
    from xtune.recipe.schema import Recipe

    batch, longest, *_ = SETTINGS[setting]
    return Recipe.model_validate(
        {
            "model": {"path": str(task.model), "template": "chatml"},
            "method": {"kind": method, "rank": RANK, "alpha": ALPHA},
            "data": {"sources": [{"path": str(task.work / f"{setting}.jsonl")}], "max_length": longest},
            "train": {
                "steps": task.steps,
                "batch_size": batch,
                "micro_batch_size": batch // passes(options),
                "lr": LR,
                "schedule": "constant",
                "warmup": 0,
                "gradient_checkpointing": checkpointing(options, "auto"),
                "checkpoint_every": task.steps,
                "seed": SEED,
            },
        }
    )


def make(task: Task) -> None:
    from xtune.training.train import prepare

    if not task.model.is_dir():
        make_model(task)
    for setting in task.settings:
        write_data(task, setting)
        found = prepare(recipe(task, setting, "lora", []))
        rows = []
        for number in (number for step in range(task.steps) for number in found.plan.step(step)):
            (text,) = found.dataset.texts(number)
            labels = [-100, *text.labels.tolist()[1:]]  # nothing predicts the first
            rows.append({"input_ids": text.input_ids.tolist(), "labels": labels})
        (task.work / f"{setting}.rows.json").write_text(json.dumps(rows))


def make_model(task: Task) -> None:
    """Random weights in bfloat16, a tokenizer in which each word is a token, and a chat template."""
    import torch
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    hidden, intermediate, layers, heads, vocabulary = SHAPES[task.shape]
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    words = [*special, "system", "user", "assistant", "\n"]
    words += [f"w{number}" for number in range(vocabulary - len(words))]
    ids = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    backend.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="</s>",
    )
    tokenizer.save_pretrained(task.model)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=vocabulary,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=4,
        pad_token_id=2,
    )
    torch.manual_seed(SEED)
    with torch.device(task.device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(task.model, max_shard_size="4GB")


def write_data(task: Task, setting: str) -> None:
    """Conversations of random words, as long as the setting says."""
    import numpy as np

    random = np.random.default_rng(SEED)
    batch, longest, *quantiles = SETTINGS[setting]
    words = SHAPES[task.shape][-1] - 10
    with open(task.work / f"{setting}.jsonl", "w", encoding="utf-8") as out:
        for _ in range(batch * task.steps):
            prompt, answer = (
                int(np.interp(random.random(), np.linspace(0, 1, len(each)), each)) for each in quantiles
            )
            sizes = {"user": min(prompt, longest - answer) - _FRAME, "assistant": answer}
            turns = [
                {"role": role, "content": " ".join(f"w{word}" for word in random.integers(words, size=size))}
                for role, size in sizes.items()
            ]
            out.write(json.dumps({"messages": turns}) + "\n")


def operations(shape: str, rows: list[dict]) -> float:
    """Floating-point operations of the frozen model on these samples: forward, and backward to the inputs. The output
    layer counts at tokens with loss; causal attention takes half of QK' and of AV, and twice that backward."""
    hidden, intermediate, layers, _, vocabulary = SHAPES[shape]
    linear = layers * (4 * hidden**2 + 3 * hidden * intermediate)
    tokens = sum(len(row["input_ids"]) for row in rows)
    learnt = sum(label != -100 for row in rows for label in row["labels"])
    squares = sum(size**2 for row in rows for size in row.get("seq_lengths") or [len(row["input_ids"])])
    return 4.0 * (linear * tokens + vocabulary * hidden * learnt) + 6.0 * layers * hidden * squares


def product_rate(task: Task) -> float:
    """Operations a second of a product of large matrices, in bfloat16 on a GPU: the median of 30."""
    import torch

    size, dtype = (8192, torch.bfloat16) if task.on_gpu else (1024, torch.float32)
    left, right = (torch.randn(size, size, device=task.device, dtype=dtype) for _ in range(2))
    wait = torch.cuda.synchronize if task.on_gpu else lambda: None
    times = []
    for _ in range(40):
        wait()
        begun = time.perf_counter()
        left @ right
        wait()
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / sorted(times[10:])[15]


if __name__ == "__main__":
    chosen = Task.read(Path(sys.argv[2]))
    if sys.argv[1] == "make":
        make(chosen)
    else:
        (chosen.work / "product").write_text(str(product_rate(chosen)))
