"""Short conversations in English and Chinese that teach a model its name."""

data = dict(sources=[dict(path="../../../examples/quickstart/identity.jsonl")], max_length=512)
probe = dict(prompts=["Who are you?", "What is your name?", "你是谁？", "What is the capital of France?"])
