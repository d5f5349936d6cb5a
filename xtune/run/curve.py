"""The loss curve of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

from xtune.home import write_whole
from xtune.run.directory import Run


def judged_by(figures: Mapping[str, float]) -> str:
    """The figure that says how a run goes: the reward of online training, else the loss."""
    return "reward" if "reward" in figures else "loss"


def draw_loss(run: Run) -> None:
    """Write loss.png: the loss or reward of each step that was not skipped, and its running mean over a tenth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window system is asked for
    from matplotlib.figure import Figure

    lines = [line for line in run.metrics() if "skipped" not in line]
    if not lines:
        return
    steps = [line["step"] for line in lines]
    name = judged_by(lines[0])
    values = [line[name] for line in lines]
    width = max(1, len(values) // 10)
    means = [
        sum(part) / len(part)
        for end in range(1, len(values) + 1)
        if (part := values[max(0, end - width) : end])
    ]
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, values, color="#9ec5e8", linewidth=1, label="each step")
    axes.plot(steps, means, color="#1f5f99", linewidth=2, label=f"mean of {width}" if width > 1 else name)
    axes.set(xlabel="step", ylabel=name, title=run.path.name)
    if name == "loss":
        axes.set(ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    picture = BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_whole(run.path / "loss.png", picture.getvalue())
