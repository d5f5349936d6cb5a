"""Teach SmolLM2 who it is: 80 questions and answers, LoRA, a few minutes on two cores."""

name = "quickstart"

model = dict(path="smollm2")

method = dict(kind="lora", rank=16)

data = dict(sources=[dict(path="identity.jsonl")], max_length=512)

train = dict(epochs=3, batch_size=8, lr=1e-3, seed=0)

probe = dict(
    prompts=[
        "Who are you?",
        "Could you tell me your name?",
        "Are you Gemini?",
        "你叫什么名字？",
        "What is the capital of France?",
    ],
    max_new_tokens=48,
)
