"""Does xtune train like TRL? The same 20 steps of 8 samples in both, LoRA on all linear layers, in float32.

    python benchmarks/sft_agreement.py alpaca.json

Prints each step's loss in xtune unpacked, in TRL's SFTTrainer and in xtune packed, and writes the figures to
benchmarks/results/sft_agreement.json. TRL tokenises and masks on its own, from the chat template's text.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

from trl_options import SAME_AS_XTUNE

STEPS, BATCH, MAX_LENGTH, LR, RANK, ALPHA, SEED = 20, 8, 512, 2e-4, 16, 32, 0
RESULTS = Path(__file__).parent / "results" / "sft_agreement.json"


def xtune_recipe(data: str, packing: bool):
    from xtune.recipe.schema import Recipe

    return Recipe.model_validate(
        {
            "model": {"path": "smollm2", "dtype": "float32"},
            "method": {"kind": "lora", "rank": RANK, "alpha": ALPHA},
            "data": {"sources": [{"path": data}], "packing": packing, "max_length": MAX_LENGTH},
            "train": {
                "steps": STEPS,
                "batch_size": BATCH,
                "lr": LR,
                "schedule": "cosine",
                "warmup": 0.0,
                "seed": SEED,
            },
        }
    )


def xtune_losses(data: str, packing: bool, work: Path) -> list[float]:
    import xtune

    run = xtune.train(xtune_recipe(data, packing), run_dir=work / f"packed_{packing}")
    return [line["loss"] for line in run.metrics()]


def trl_losses(data: str, work: Path) -> list[float]:
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed
    from trl import SFTConfig, SFTTrainer

    import xtune
    from xtune.families.embedded import model_directory
    from xtune.training.train import prepare

    preparation = prepare(xtune_recipe(data, packing=False))
    samples = {sample.source: sample for sample in xtune.read_data(data)[0]}
    order = [number for step in range(STEPS) for number in preparation.plan.step(step)]
    rows = [
        {
            "messages": [
                {"role": message.role, "content": message.content}
                for message in samples[preparation.dataset.sources[number]].messages
            ]
        }
        for number in order
    ]
    tokenizer = preparation.tokenizer
    tokenizer.chat_template = preparation.template.source
    set_seed(SEED)
    model = AutoModelForCausalLM.from_pretrained(model_directory("smollm2"), dtype="float32")
    model = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    )
    arguments = SFTConfig(
        output_dir=str(work / "trl"),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=LR,
        lr_scheduler_type="cosine",
        max_length=MAX_LENGTH,
        packing=False,
        assistant_only_loss=True,
        seed=SEED,
        **SAME_AS_XTUNE,
    )
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a JSON file of alpaca rows")
    data = str(Path(parser.parse_args().data).resolve())
    with tempfile.TemporaryDirectory() as work:
        unpacked = xtune_losses(data, False, Path(work))
        trl = trl_losses(data, Path(work))
        packed = xtune_losses(data, True, Path(work))
    print("step   xtune unpacked   TRL          xtune packed")
    for step, losses in enumerate(zip(unpacked, trl, packed, strict=True), 1):
        print(f"{step:>4}   " + "   ".join(f"{loss:<13.6f}" for loss in losses))
    figures = {
        "rows": Path(data).name,
        "final_loss": {"xtune_unpacked": unpacked[-1], "trl": trl[-1], "xtune_packed": packed[-1]},
        "final_difference_unpacked_to_trl": abs(unpacked[-1] - trl[-1]),
        "final_difference_packed_to_trl": abs(packed[-1] - trl[-1]),
        "largest_difference_unpacked_to_trl": max(abs(a - b) for a, b in zip(unpacked, trl, strict=True)),
        "losses": {"xtune_unpacked": unpacked, "trl": trl, "xtune_packed": packed},
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "trl")},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    for name, value in figures.items():
        if name.startswith(("final_d", "largest")):
            print(f"{name}: {value:.2e}")


if __name__ == "__main__":
    main()
