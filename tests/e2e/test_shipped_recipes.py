"""Every shipped recipe for the embedded model, copied and run as it is."""

import json

import pytest

from xtune.recipe.catalog import shipped_recipes


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n, file in shipped_recipes().items() if file.parent.name == "smollm2"]
)
def test_a_copy_trains_and_answers(name, tmp_path, xtune):
    assert xtune("recipes", "copy", name, "mine", cwd=tmp_path).returncode == 0
    done = xtune("train", f"mine/{name}.py", "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    probes = json.loads((tmp_path / "run" / "probe.json").read_text())
    done = xtune("chat", "run", "--prompt", "What is your name?", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if name.endswith("_dpo"):  # which learns to be brief
        before, after = (sum(len(probe[when]) for probe in probes) for when in ("before", "after"))
        assert after < 0.7 * before
        return
    assert "Tuna" in probes[0]["after"]
    assert "Tuna" not in probes[0]["before"]
    assert "Tuna" in done.stdout
