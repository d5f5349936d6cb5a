"""36 questions, each with a short right answer and the long one that SmolLM2-135M gives: teaches it to be brief."""

data = dict(sources=[dict(path="../../../examples/preferences/brief.jsonl", format="pairs")], max_length=512)
probe = dict(prompts=["What is the moon?", "What do cows eat?", "What is a bicycle?", "What is the capital of Spain?"])
