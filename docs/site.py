"""For mkdocs: links to files that are in the repository and not in the site become their names."""

import re


def on_page_markdown(markdown: str, **_) -> str:
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)[^)]*\)", _named, markdown)


def _named(link: re.Match) -> str:
    text, file = link.groups()
    return text if file in text else f"{text} (`{file}`)"
