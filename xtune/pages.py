"""The pages of the documentation, which travel with the package."""

from __future__ import annotations

import difflib
from pathlib import Path

from xtune.errors import UsageError


def pages() -> dict[str, str]:
    """Titles by name, in alphabetic order."""
    files = sorted(file for file in _folder().glob("*.md") if not file.stem.endswith("_zh"))
    return {file.stem: _title(file) for file in files}


def read_page(name: str) -> str:
    """A page's Markdown. Raises UsageError where there is none of that name."""
    known = pages()
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1)
        raise UsageError(
            f"There is no page {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""),
            fix="`xtune docs` lists them all",
        )
    return (_folder() / f"{name}.md").read_text(encoding="utf-8")


def _folder() -> Path:
    """Inside an installed package, beside it in a clone."""
    package = Path(__file__).parent
    return next(path for path in (package / "docs", package.parent / "docs") if path.is_dir())


def _title(file: Path) -> str:
    with open(file, encoding="utf-8") as lines:
        return next((line[2:].strip() for line in lines if line.startswith("# ")), file.stem)
