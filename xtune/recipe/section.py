"""What every section of a recipe is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """Frozen, and strict about names: a misspelt option is a fault, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def conflict(message: str, *options: str) -> PydanticCustomError:
    """Options of one section that do not go together; the fault is shown at the first of them."""
    return PydanticCustomError("conflict", "{message}", {"message": message, "options": options})
