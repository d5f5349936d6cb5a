"""Teach SmolLM2 to be brief by which of two answers is preferred: DPO with LoRA."""

name = "preferences"

model = dict(path="smollm2")

method = dict(kind="lora", rank=16)

data = dict(sources=[dict(path="brief.jsonl")], max_length=512)

train = dict(objective=dict(kind="dpo", sft_weight=1.0), epochs=3, lr=2e-4)

probe = dict(prompts=["What is the moon?", "What do cows eat?", "What is a bicycle?"], max_new_tokens=96)
