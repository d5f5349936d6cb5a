"""A reward model that scores the same answers by what is asked for: short, or detailed."""

name = "reward_conditions"


def the_other_way_round(row):
    """Who wants details prefers the long answers of the same pairs."""
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}


model = dict(path="smollm2")

method = dict(kind="lora", rank=16)

data = dict(
    sources=[
        dict(path="../preferences/brief.jsonl", condition="Prefer the shorter answer."),
        dict(
            path="../preferences/brief.jsonl",
            format=the_other_way_round,
            condition="Prefer the answer with more details.",
        ),
    ],
    max_length=512,
    held_out=0.2,
)

train = dict(objective="reward", epochs=6, batch_size=8, lr=5e-4)
