"""Which run is best: a table in Markdown and a picture of curves."""

import math
import sys
from pathlib import Path

from tdr_jax import disk
from tdr_jax.errors import InputError
from tdr_jax.sweeps import outcome, plan


def write(sweep: plan.Sweep, folder: Path) -> str:
    """Rank the finished runs, in `report.md` and `report.png`.

    Args:
        sweep: whose runs are looked at.
        folder: of the sweep.

    Returns:
        the text of `report.md`.

    Raises:
        InputError: there is no such folder, or no finished run has measured the metric.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; start the sweep with --launcher local")
    finished, others = [], []
    for run in sweep.runs:
        result = outcome.result(run)
        if result:
            finished.append((run, result["metrics"].get(sweep.metric)))
        else:
            others.append(run)
    if finished and all(score is None for _, score in finished):
        known = sorted(outcome.result(finished[0][0])["metrics"])
        raise InputError(
            f"METRIC is {sweep.metric}, which no finished run has measured; they have "
            f"{', '.join(known)}"
        )
    finished.sort(key=lambda pair: _order(pair[1], sweep.better))
    text = _text(sweep, finished, others)
    disk.write_text(folder / "report.md", text)
    draw(sweep, folder / "report.png")
    return text


def draw(sweep: plan.Sweep, path: Path) -> None:
    """Draw the metric over the steps, a line a run; the loss where it was measured only once.

    Without matplotlib nothing is drawn, which is said on standard error.

    Args:
        sweep: whose runs are drawn.
        path: of the PNG.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"no {path}: it needs matplotlib; pip install 'tdr_jax[plot]'", file=sys.stderr)
        return
    records = {run.name: outcome.records(run) for run in sweep.runs}
    metric = sweep.metric
    if all(len(_points(kept, metric)) < 2 for kept in records.values()):
        metric = "loss"
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel=metric)
    for name, kept in records.items():
        points = _points(kept, metric)
        if points:
            axes.plot(*zip(*points, strict=True), label=name, marker="." * (len(points) < 50))
    if axes.lines:
        axes.legend(fontsize="small")
    with disk.replacing(path) as (partial,):
        figure.savefig(partial, format="png", dpi=120)


def _points(records: list[dict], metric: str) -> list[tuple[int, float]]:
    return [(record["step"], record[metric]) for record in records if metric in record]


def _order(score: float | None, better: str) -> float:
    """Sorts the best first; what was not measured or is no number comes last."""
    if score is None or math.isnan(score):
        return math.inf
    return -score if better == "higher" else score


def _text(sweep, finished, others) -> str:
    fields = list(sweep.runs[0].differs)
    rows = [["rank", "run", *fields, sweep.metric, "step", "state"]]
    for rank, (run, score) in enumerate(finished, 1):
        rows.append(_row(run, str(rank), "" if score is None else f"{score:.4f}", "finished"))
    for run in others:
        rows.append(_row(run, "", "", outcome.state(run)))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    lines.append("")
    if finished:
        best, _ = finished[0]
        weights = best.workdir / outcome.result(best)["weights"]
        lines += [f"best: {best.name}", f"weights: {weights}"]
    else:
        lines.append("best: none yet, no run is finished")
    return "\n".join(lines) + "\n"


def _row(run: plan.Run, rank: str, score: str, state: str) -> list[str]:
    step = f"{outcome.last_step(run)}/{run.steps}"
    values = [str(value).replace("|", r"\|") for value in run.differs.values()]
    return [rank, run.name, *values, score, step, state]
