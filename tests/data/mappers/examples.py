"""Example rows of every format, by its name: the tables that the properties of test_all.py run over.

What reads like a sentence (has a space, or is not ASCII) must be in the sample; ids and the like are single words.
"""

import json

TURNS = [
    {"role": "user", "content": "Which river runs through Vienna?"},
    {"role": "assistant", "content": "The Danube does."},
]
SHAREGPT_TURNS = [
    {"from": "human", "value": "Which river runs through Vienna?"},
    {"from": "gpt", "value": "The Danube does."},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"name": "weather", "arguments": {"city": "Wien"}}

EXAMPLES: dict[str, list] = {
    "alpaca": [
        {"instruction": "Name a fruit.", "input": "It is yellow.", "output": "A banana."},
        {"instruction": "Name a fruit.", "output": "An apple.", "text": "apple", "label": "food"},
        {
            "instruction": "And now?",
            "output": "A pear.",
            "system": "Be brief.",
            "history": [["One fruit?", "A fig."]],
        },
        {
            "instruction": "Who wrote it?",
            "context": "Emma is by Austen.",
            "response": "Jane Austen.",
            "category": "qa",
        },
    ],
    "alpaca_zh": [{"instruction_zh": "说出一种水果。", "input_zh": "黄色的", "output_zh": "香蕉。"}],
    "self_instruct": [
        {
            "id": "seed_1",
            "instruction": "Turn the word around.",
            "instances": [
                {"input": "in one word", "output": "a dog"},
                {"input": "", "output": "no input here"},
            ],
        }
    ],
    "guanaco_zh": [
        {
            "instruction": "User: Good day\nAssistant: Good day to you\n",
            "input": "User: 你好吗",
            "output": "我很好，谢谢",
        },
        {"instruction": "Add these two.", "input": "2 and 3", "output": "It is 5."},
    ],
    "prompt_completion": [
        {"prompt": "Is ice cold?", "completion": "Yes, it is."},
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        {"prompt": "Is fire cold?", "response": "No, hot.", "history": [["Is ice?", "It is."]]},
        {"query": "Is it late?", "response": "Not yet.", "system": "Keep calm."},
        {
            "system_prompt": "Think first.",
            "question": "What is two and two?",
            "response": "It is four.",
            "id": "flan.1",
        },
        {
            "question": "How many pets?",
            "context": "CREATE TABLE pet (age INTEGER)",
            "answer": "SELECT COUNT(*) FROM pet",
        },
        {
            "question": "May I park here?",
            "answer": "You may not.",
            "reference": ["No parking here.", "Fines apply."],
        },
        {"problem": "Find x in x + 1 = 3.", "solution": "So x = 2 here.", "source": "olympiads"},
        {"input": "Say it in French: bread", "output": "C'est le pain."},
        {"content": "类型#裤*颜色#黑", "summary": "一条黑色的裤子"},
    ],
    "code_alpaca": [
        {"prompt": "Write a loop.", "completion": "for i in x: pass"},
        {"instruction": "Write a loop.", "input": "over a list", "output": "for i in x: pass"},
    ],
    "tiny_codes": [
        {"prompt": "Print a line.", "response": "print( 'a line' )", "programming_language": "Python"}
    ],
    "sql": [
        {
            "context": "CREATE TABLE cat (age INTEGER)",
            "question": "How old are they?",
            "answer": "SELECT age FROM cat",
        }
    ],
    "arxiv": [
        {
            "id": "0001.1",
            "title": "On the folds\n  of lines",
            "abstract": "  We fold\nlines. \n  And then more.",
        }
    ],
    "medical": [{"instruction": "My head hurts.", "input": "since a day", "output": "Drink some water."}],
    "crime_kg_assistant": [{"input": "何为盗窃？", "output": "秘密窃取他人财物。"}],
    "law_reference": [
        {
            "question": "可以辞职吗？",
            "answer": "可以，提前通知。",
            "reference": ["劳动合同法第三十七条", "第三十八条"],
        }
    ],
    "colors": [
        {"description": "Teal: a calm blue green", "color": "#008080"},
        {"description": "very dark", "color": "#000000"},
    ],
    "firefly": [{"kind": "Couplet", "input": "春风得意", "target": "秋月无边"}],
    "xtuner": [
        {"toy_system": "Be kind.", "toy_input": "How are you?", "toy_output": "Fine, thank you."},
        {
            "messages": [
                {"toy_input": "One more?", "toy_output": "Yes, one."},
                {"toy_input": "And now?", "toy_output": "No more."},
            ]
        },
        {"conversation": [{"system": "Be kind.", "input": "How are you?", "output": "Fine, thank you."}]},
    ],
    "text": [
        {"text": " It rains all day.\n", "url": "x"},
        {"content": "It snows at night.", "title": "snow"},
        {"response": "There is nobody to ask."},
        {"toy_text": "A toy of a text."},
        {
            "messages": [
                {"role": "pretrain", "content": "First of two."},
                {"role": "pretrain", "content": "Second of two."},
            ]
        },
    ],
    "pairs": [
        {"prompt": "Is it far?", "chosen": "A short walk.", "rejected": "No idea at all."},
        {
            "prompt": TURNS[:1],
            "chosen": TURNS[1:],
            "rejected": [{"role": "assistant", "content": "No idea at all."}],
        },
        {
            "conversations": SHAREGPT_TURNS[:1],
            "chosen": SHAREGPT_TURNS[1],
            "rejected": {"from": "gpt", "value": "The Rhine does."},
        },
        {
            "prompt": "Which river?",
            "chosen": TURNS,
            "rejected": [TURNS[0], {"role": "assistant", "content": "Some river or other."}],
        },
        {
            "chosen_messages": TURNS,
            "rejected_messages": [TURNS[0], {"role": "assistant", "content": "Some river or other."}],
        },
        {
            "question": "Is it far?",
            "response_chosen": "A short walk.",
            "response_rejected": "Go away!",
            "system": "Be kind.",
            "history": [["Is it big?", "Quite so."]],
        },
        {"instruction": "Add these.", "input": "1 and 1", "chosen": "It is 2.", "rejected": "It is 3."},
        {"messages": TURNS, "rejected_response": "Some river or other."},
        {"query": "Is it far?", "response": "A short walk.", "rejected_response": "Go away now!"},
        {
            "chosen": "\n\nHuman: Is it far?\n\nAssistant: A short walk.",
            "rejected": "\n\nHuman: Is it far?\n\nAssistant: Go away!",
        },
    ],
    "labelled": [
        {"messages": TURNS, "label": True},
        {"conversations": SHAREGPT_TURNS, "label": "false"},
        {"prompt": "Is ice cold?", "completion": "Yes, it is.", "label": 0},
        {"instruction": "Name a fruit.", "input": "a yellow one", "output": "A banana.", "kto_tag": True},
    ],
    "prompts": [
        {"question": "What is two and two?", "answer": "It makes 4"},
        {
            "data_source": "gsm8k",
            "prompt": TURNS[:1],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "72"},
            "extra_info": {"index": 0},
        },
        {"prompt": "What is two and two?", "solution": "It makes 4", "system": "Think first."},
        {"messages": TURNS[:1], "ground_truth": ["Danube"]},
        {"conversations": SHAREGPT_TURNS[:1]},
    ],
    "sharegpt": [
        {"conversations": SHAREGPT_TURNS, "system": "Be brief."},
        {"conversations": TURNS},
        {"conversations": json.dumps(TURNS)},
        {"conversations": str(TURNS), "id": "repr"},
        {
            "conversation": [
                {"human": "Is it far?", "assistant": "A short walk."},
                {"human": "Is it hot?", "assistant": "Not so much."},
            ],
            "category": "chat",
            "history": [["Is it near?", "Quite so."]],
        },
        {
            "conversations": [
                *SHAREGPT_TURNS,
                {"from": "human", "value": "Is it warm there?"},
                {"from": "function_call", "value": json.dumps(CALL)},
                {"from": "observation", "value": "18 degrees"},
                {"from": "gpt", "value": "It is 18 degrees."},
            ],
            "tools": json.dumps([TOOL["function"]]),
        },
        {
            "conversations": [
                TURNS[0],
                {
                    "role": "tool",
                    "name": "weather",
                    "parameters": {"city": "Wien"},
                    "observation": "18 degrees",
                },
                {
                    "role": "assistant",
                    "metadata": "weather",
                    "content": "```python\ntool_call(city='Graz')\n```",
                },
                {"role": "observation", "content": "16 degrees"},
                TURNS[1],
            ],
            "tools": [TOOL["function"]],
        },
    ],
    "msagent": [
        {
            "id": "MS_1",
            "conversations": [
                {
                    "from": "system",
                    "value": 'You may call these:\n1. {"name": "weather", "description": "Tells the weather."}\n',
                },
                {"from": "user", "value": "Is it warm there?"},
                {
                    "from": "assistant",
                    "value": 'I will look.<|startofthink|>{"api_name": "weather", "parameters": {"city": "Wien"}}'
                    "<|endofthink|>\n<|startofexec|>18 degrees<|endofexec|>\nIt is 18 degrees.",
                },
            ],
        }
    ],
    "messages": [
        {"messages": TURNS, "system": "Be brief."},
        TURNS,
        {"messages": json.dumps(TURNS)},
        {
            "messages": [
                {"role": "system", "content": "Be brief.", "tools": [TOOL["function"]]},
                TURNS[0],
                {
                    "role": "assistant",
                    "content": None,
                    "reasoning_content": "I had better look.",
                    "tool_calls": [
                        {
                            "id": "1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"city": "Wien"}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "1", "content": "18 degrees"},
                {**TURNS[1], "loss": False},
                {"role": "user", "content": "And in Graz?"},
                {"role": "assistant", "content": "It is colder.", "weight": 1},
            ],
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "value": "What is it?"}], "loss_weight": 0.0},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "reasoning", "value": "Let me think."},
                        {"type": "text", "value": "It is a river."},
                        {"type": "tool_call", "value": json.dumps(CALL)},
                    ],
                    "loss_weight": 1.0,
                },
            ],
            "tools": json.dumps([TOOL]),
        },
        {
            "messages": [
                TURNS[0],
                {
                    "role": "assistant",
                    "content": "I will look.",
                    "function_call": {"name": "weather", "parameters": {}},
                },
                {"role": "function", "name": "weather", "content": "18 degrees"},
                {"role": "assistant", "content": "I compute.", "code_interpreter_call": "print( 18 )"},
                {"role": "code_interpreter", "content": "it printed 18"},
                TURNS[1],
            ],
            "functions": [TOOL["function"]],
            "code_interpreter": "Runs Python code.",
        },
    ],
    "moss": [
        {
            "conversation_id": 1,
            "meta_instruction": "You are MOSS.\n- Inner thoughts: enabled.\n"
            "- Web search: enabled. API: Search(query)\n- Calculator: disabled.\n",
            "num_turns": 2,
            "chat": {
                "turn_1": {
                    "Human": "<|Human|>: Is it late?<eoh>\n",
                    "Inner Thoughts": "<|Inner Thoughts|>: I have no clock here.<eot>\n",
                    "Commands": '<|Commands|>: Search("time now")<eoc>\n',
                    "Tool Responses": "<|Results|>:\nSearch(\"time now\") =>\n<|1|>: 'ten at night'\n<eor>\n",
                    "MOSS": "<|MOSS|>: Yes, rather late.<eom>\n",
                },
                "turn_2": {
                    "Human": "<|Human|>: 谢谢你<eoh>\n",
                    "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
                    "Commands": "<|Commands|>: None<eoc>\n",
                    "Tool Responses": "<|Results|>: None<eor>\n",
                    "MOSS": "<|MOSS|>: 不用谢<eom>\n",
                },
            },
            "category": "tool",
        }
    ],
    "glaive": [
        {
            "system": "SYSTEM: You may call these -\n" + json.dumps(TOOL["function"], indent=4),
            "chat": "USER: Is it warm there?\n\n\nASSISTANT: One moment. <functioncall> "
            '{"name": "weather", "arguments": \'{"city": "Wien"}\'} <|endoftext|>',
        }
    ],
    "guanaco": [
        {
            "text": "### Human: Is it far?### Assistant: ### No\n\nA short walk.### Human: 好的### Assistant: 好"
        },
        {
            "input": "### Human: Is it far? ### Assistant:",
            "output": "A short walk.",
            "message_id": "m1",
            "parent_id": "m0",
            "rank": 0,
            "text": "### Human: Is it far? ### Assistant:",
        },
    ],
    "oasst": [
        {
            "message_tree_id": "t1",
            "tree_state": "ready_for_export",
            "prompt": {
                "message_id": "m1",
                "text": "Is it far?",
                "role": "prompter",
                "lang": "en",
                "replies": [
                    {"message_id": "m2", "text": "maybe", "role": "assistant", "rank": 1, "replies": []},
                    {"message_id": "m3", "text": "A short walk.", "role": "assistant", "rank": 0},
                ],
            },
        }
    ],
}
