"""1.6 million short programs in many languages: from the hub, after agreeing to its terms there."""

data = dict(sources=[dict(path="nampdn-ai/tiny-codes", format="tiny_codes")])
probe = dict(
    system="You are an experienced programmer who writes correct, readable code and explains it briefly.",
    prompts=[
        "Write a Python function that reverses a string.",
        "Write a C++ program that prints the first ten primes.",
    ],
    max_new_tokens=128,
)
