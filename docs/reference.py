"""The reference in recipes.md, made from the schema of recipes: python docs/reference.py"""

from collections.abc import Iterator
from pathlib import Path

from pydantic.fields import FieldInfo

from xtune.recipe.describe import allowed, kinds, section_at
from xtune.recipe.schema import Section

PAGE = Path(__file__).parent / "recipes.md"
BEGIN = "<!-- From here on made by docs/reference.py. -->\n"
SECTIONS = (
    "model",
    "model.rope_scaling",
    "method",
    "data",
    "data.sources",
    "data.defects",
    "train",
    "train.objective",
    "train.objective.rewards",
    "probe",
)
HEAD = ("| option | takes | default | |", "| --- | --- | --- | --- |")
ONLINE = {"train": {"objective": {"kind": "grpo"}}}
"""A recipe that has rewards."""


def reference() -> str:
    """Every option of a recipe: what it takes, its default, what it is for."""
    return "\n".join(line for name in SECTIONS for line in _section(name))


def _section(name: str) -> Iterator[str]:
    key = tuple(name.split("."))
    yield f"## `{name}`\n"
    of_kinds = kinds(key)
    if not of_kinds:
        section = section_at(key, ONLINE)
        yield from (_said_of(section), *HEAD, *_rows(key, section, ONLINE), "")
        return
    yield f"One of several kinds, `dict(kind=...)`: {', '.join(f'`{kind}`' for kind in of_kinds)}.\n"
    told: dict[str, list[str]] = {}
    for kind, section in of_kinds.items():
        rows = _rows(key, section, _nested(key, {"kind": kind}))
        # What has all options of another kind need not repeat them.
        likes = [other for other in told if told[other] and set(told[other]) <= set(rows)]
        new = [row for row in rows if not (likes and row in told[likes[-1]])]
        yield f"### `{kind}`\n"
        if likes:
            yield f"All of `{likes[-1]}`{', and:' if new else '.'}\n"
        yield from (*HEAD, *new, "") if new else ("" if likes else "No options.\n",)
        told[kind] = rows


def _said_of(section: type[Section]) -> str:
    return _plain(section.__doc__) + "\n" if section.__doc__ else ""


def _rows(key: tuple[str, ...], section: type[Section], recipe: dict) -> list[str]:
    options = [(name, field) for name, field in section.model_fields.items() if name != "kind"]
    return [_row((*key, name), field, recipe) for name, field in options]


def _row(key: tuple[str, ...], field: FieldInfo, recipe: dict) -> str:
    name = ".".join(key)
    takes = f"see [`{name}`](#{''.join(key)})" if name in SECTIONS else allowed(key, recipe)
    default = "" if field.is_required() else f"`{_default(field)}`"
    return f"| `{key[-1]}` | {_cell(takes)} | {default} | {_cell(_plain(field.description or ''))} |"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section):
        return getattr(value, "kind", "…")
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _nested(key: tuple[str, ...], value: dict) -> dict:
    for part in reversed(key):
        value = {part: value}
    return value


def _plain(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    before, _, _ = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + reference(), encoding="utf-8")
