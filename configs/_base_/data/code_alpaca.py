"""20,000 tasks of programming: from the hub."""

data = dict(sources=[dict(path="HuggingFaceH4/CodeAlpaca_20K", format="code_alpaca")])
probe = dict(
    system="You are an experienced programmer who writes correct, readable code and explains it briefly.",
    prompts=[
        "Write a Python function that reverses a string.",
        "Write an SQL query for the five most expensive products.",
    ],
    max_new_tokens=128,
)
