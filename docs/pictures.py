"""The README's pictures, from a finished quickstart run: python docs/pictures.py RUN"""

import io
import shutil
import sys
from pathlib import Path

from rich.console import Console

from xtune.cli.train import probe_table
from xtune.run.directory import open_run

run = open_run(Path(sys.argv[1]))
images = Path(__file__).parent / "images"
shutil.copy(run.path / "loss.png", images / "loss.png")
console = Console(record=True, width=100, file=io.StringIO())
console.print(probe_table(run))
console.save_svg(str(images / "before_after.svg"), title="xtune train examples/quickstart/recipe.py")
