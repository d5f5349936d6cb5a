"""Conversations with tools and without, in English and Chinese: both files of the hub's fnlp/moss-003-sft-data,
unpacked, put where you stand."""

data = dict(
    sources=[
        dict(path="moss-003-sft-no-tools.jsonl", format="moss"),
        dict(
            path="conversations_with_tools_with_inner_instruction_no_text2image_train_all"
            "_random_meta0.5_0.1_0.01_moss_0709.jsonl",
            format="moss",
        ),
    ]
)
probe = dict(
    prompts=["Please introduce five sights in Shanghai.", "请写一首关于秋天的短诗。"], max_new_tokens=128
)
