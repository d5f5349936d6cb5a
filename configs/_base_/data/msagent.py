"""Conversations with tools in Chinese: what modelscope.cn/datasets/damo/MSAgent-Bench has to train on, as
msagent_bench.jsonl, put where you stand."""

data = dict(sources=[dict(path="msagent_bench.jsonl", format="msagent")])
probe = dict(prompts=["介绍一下你自己。", "请给我介绍五个上海的景点。"], max_new_tokens=128)
