"""Chinese law, 144,000 questions: both files of github.com/LiuHC0428/LAW-GPT, put where you stand."""

data = dict(
    sources=[
        dict(path="CrimeKgAssitant清洗后_52k.json", format="crime_kg_assistant"),
        dict(path="训练数据_带法律依据_92k.json", format="law_reference"),
    ]
)
probe = dict(
    system="You are a lawyer versed in Chinese law who gives sound advice and names the statutes it rests on.",
    prompts=["房东不退押金，我该怎么办？", "酒后驾驶会受到什么处罚？"],
    max_new_tokens=128,
)
