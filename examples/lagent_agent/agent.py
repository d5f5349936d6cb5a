"""An agent of Lagent with a calculator; its model is served by `xtune serve`.

    python agent.py "What is 17 * 23?" [URL]
"""

import ast
import operator
import sys

from lagent.actions import ActionExecutor, BaseAction, tool_api
from lagent.agents import ReAct
from lagent.llms import GPTAPI

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


class Calculator(BaseAction):
    """Works out sums."""

    @tool_api
    def run(self, expression: str) -> str:
        """Work out a sum.

        Args:
            expression (str): numbers with + - * / and brackets, such as 17 * 23
        """
        return str(value(ast.parse(expression, mode="eval").body))


def value(node):
    """What a sum comes to. A model wrote it, so nothing else is run."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](value(node.left), value(node.right))
    raise ValueError("only numbers with + - * / are worked out")


def main(question, url="http://127.0.0.1:8000"):
    model = GPTAPI(
        model_type="internlm",  # the name that the model is served under; Lagent knows gpt…, internlm… and qwen…
        openai_api_base=f"{url}/v1/chat/completions",
        key="none",
        temperature=0,
        top_p=1,
        max_new_tokens=256,
        stop_words=["\nResponse:"],  # which is what the tool says, not the model
    )
    agent = ReAct(llm=model, action_executor=ActionExecutor(actions=[Calculator()]))
    answer = agent.chat(question)
    for action in answer.actions[:-1]:
        print(f"{action.type}({action.args}) = {action.format_result() or action.errmsg}")
    print(answer.response.strip())


if __name__ == "__main__":
    main(*sys.argv[1:])
