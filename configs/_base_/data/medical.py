"""2 million medical questions in Chinese: finetune/train_zh_0.json of the hub's shibing624/medical, put where you
stand."""

data = dict(sources=[dict(path="train_zh_0.json", format="medical")])
probe = dict(
    system="You are a knowledgeable doctor who answers medical questions with care and in words patients understand.",
    prompts=["我最近总是失眠，应该怎么办？", "What helps against a sore throat?"],
    max_new_tokens=128,
)
