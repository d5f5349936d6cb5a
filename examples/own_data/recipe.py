"""Teach SmolLM2 to answer as a shop's support does, from tickets in a form of the shop's own."""

from xtune import Message, Sample

name = "own_data"


def to_sample(ticket):
    """A solved ticket is a conversation; open ones and notes among colleagues are nothing to learn from."""
    if ticket["status"] != "solved":
        return None
    roles = {"customer": "user", "agent": "assistant"}
    turns = [turn for turn in ticket["thread"] if turn["from"] in roles]
    return Sample([Message(roles[turn["from"]], turn["text"]) for turn in turns])


model = dict(path="smollm2")

method = dict(kind="lora", rank=16)

data = dict(
    sources=[dict(path="tickets.json", format=to_sample, system="You answer for Plum, a shop.")],
    max_length=512,
    held_out=0.1,
)

train = dict(epochs=3, batch_size=8, lr=1e-3)

probe = dict(
    system="You answer for Plum, a shop.",
    prompts=["My teapot arrived broken.", "Can I return the clock?"],
    max_new_tokens=48,
)
