"""Codes for descriptions of colours: from the hub."""

data = dict(sources=[dict(path="burkelibbey/colors", format="colors")])
probe = dict(
    system="You answer the description of a colour with its hexadecimal RGB code.",
    prompts=["A calm light blue like the sky in the morning.", "像秋天的枫叶一样的红色。"],
    max_new_tokens=128,
)
