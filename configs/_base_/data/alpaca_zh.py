"""49,000 instructions in Chinese: alpaca_gpt4_data_zh.json of the GPT-4-LLM project, put where you stand."""

data = dict(sources=[dict(path="alpaca_gpt4_data_zh.json", format="alpaca")])
probe = dict(prompts=["保持健康的三个提示。", "请给我介绍五个上海的景点。"], max_new_tokens=128)
