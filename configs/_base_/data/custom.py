"""Your own conversations or instructions: my_data.jsonl, beside the recipe or where you stand, in any format."""

data = dict(sources=[dict(path="my_data.jsonl", format="auto")])
probe = dict(prompts=["Please introduce yourself.", "请介绍一下你自己。"], max_new_tokens=128)
