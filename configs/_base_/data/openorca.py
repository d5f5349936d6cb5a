"""4 million questions with answers of GPT-3.5 and GPT-4, most with a system prompt: from the hub."""

data = dict(sources=[dict(path="Open-Orca/OpenOrca", format="openorca")])
probe = dict(
    prompts=[
        "Is it warmer on Venus or on Mercury? Explain.",
        "Summarize in one sentence: the meeting was moved from Monday to Friday, as the room is taken.",
    ],
    max_new_tokens=128,
)
