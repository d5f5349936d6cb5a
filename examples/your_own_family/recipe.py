"""Train a model of a family that xtune does not know, as my_family.py describes it."""

model = dict(path="checkpoint", family="my_family.py")

method = dict(kind="lora", rank=4)

data = dict(sources=[dict(path="birds.jsonl")], max_length=128)

train = dict(steps=2, batch_size=4, lr=1e-3)
