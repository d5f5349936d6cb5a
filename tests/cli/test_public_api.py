"""`import xtune` is light, and every public name is there."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

import xtune


def test_import_is_light():
    code = (
        "import sys, xtune; print([m for m in ('torch', 'numpy', 'pydantic', 'click') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", [n for n in xtune.__all__ if n != "__version__"])
def test_public_name(name):
    module = xtune._MODULE_OF[name]
    assert name in dir(xtune)
    assert getattr(xtune, name).__module__ == module
    assert find_spec(module)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'load_recipes'"):
        _ = xtune.load_recipes
