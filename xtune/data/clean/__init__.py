"""Cleans data before it is trained on: duplicates, languages, rules on answers, and what a held-out set holds too."""

from xtune.data.clean.options import Options
from xtune.data.clean.pipeline import clean
from xtune.data.clean.report import CleanReport

__all__ = ["CleanReport", "Options", "clean"]
