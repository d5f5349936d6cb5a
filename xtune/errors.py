"""The errors a user can cause, each with the exit code the command line gives it.

Every message says what is wrong, where, and what to do about it; the command line prints it without a
traceback. Anything else that escapes is a bug and exits with 1.
"""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right.

    `what` is one sentence; `where` a file, file:line or recipe path; `fix` the next thing to do. `page` is the page of
    the documentation that has more on errors of this kind, if one has.
    """

    exit_code = 2
    page: str | None = None

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None):
        super().__init__(what)
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


class UsageError(UserError):
    """A command was called in a way it does not understand, or names something that is not there."""


class RecipeError(UserError):
    """A recipe says something xtune cannot do. `what` may list several faults, a line each."""

    page = "recipes"


class DataError(UserError):
    """A data file cannot be read, or holds nothing to train on."""

    exit_code = 3
    page = "data"


class ResourceError(UserError):
    """The machine has not enough of something: disk, memory, a device."""

    exit_code = 4
    page = "errors"


class TrainingError(UserError):
    """Training leads nowhere: its losses are not finite, or nothing is learnt."""

    exit_code = 5
    page = "errors"
