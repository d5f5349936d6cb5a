"""The loss curve of a run as a picture."""

from __future__ import annotations

from xtune.run.directory import Run


def draw_loss(run: Run) -> None:
    """Write loss.png: the loss of each step, and its running mean over a tenth of the run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window system is asked for
    from matplotlib.figure import Figure

    lines = run.metrics()
    steps = [line["step"] for line in lines]
    losses = [line["loss"] for line in lines]
    width = max(1, len(losses) // 10)
    means = [
        sum(part) / len(part)
        for end in range(1, len(losses) + 1)
        if (part := losses[max(0, end - width) : end])
    ]
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, losses, color="#9ec5e8", linewidth=1, label="each step")
    axes.plot(steps, means, color="#1f5f99", linewidth=2, label=f"mean of {width}" if width > 1 else "loss")
    axes.set(xlabel="step", ylabel="loss per token", title=run.path.name, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    FigureCanvasAgg(figure).print_png(run.path / "loss.png")
