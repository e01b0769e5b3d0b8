"""`tdr sweep --report` ranks what is finished by the metric and says how far the rest is."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from tdr_jax import cli
from tdr_jax.sweeps import locks, plan
from tests.support import sweep_files

METRIC = "METRIC, BETTER = 'eval/noise25/psnr', 'higher'"
SETTING = "data.stages=((20, 16, 2),)"


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Four runs, of which nothing is there yet; `args` are those of the command."""
    monkeypatch.chdir(sweep_files.ROOT)
    file = sweep_files.write(tmp_path, head=METRIC)
    read = plan.read(file, str(tmp_path / "runs"), [SETTING])
    args = ["sweep", file, "--workdir", str(tmp_path / "runs"), "--set", SETTING]
    return read, args, tmp_path / "runs"


def measured(run, scores, *, result=None, steps=20):
    """What a run leaves: a score every ten steps, and the result of a finished one."""
    run.workdir.mkdir(parents=True, exist_ok=True)
    (run.workdir / "log.txt").write_text("step\n")
    records = [
        {"step": 10 * (i + 1), "loss": 1.0 / (i + 1), "eval/noise25/psnr": score}
        for i, score in enumerate(scores)
    ]
    lines = [json.dumps(record) + "\n" for record in records]
    (run.workdir / "metrics.jsonl").write_text("".join(lines))
    if result is not None:
        metrics = {"loss": 0.5, "eval/noise25/psnr": result}
        text = json.dumps({"step": steps, "weights": "weights.safetensors", "metrics": metrics})
        (run.workdir / "result.json").write_text(text)


def cells(text):
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_best_comes_first_and_the_rest_below(sweep, capsys):
    read, args, folder = sweep
    first, second, third, fourth = read.runs
    measured(first, [20, 25.5], result=25.5)
    measured(second, [20, 27.25], result=27.25)
    measured(third, [19], result=19.0, steps=10)  # of an earlier, shorter sweep: not finished
    measured(fourth, [30])
    (fourth.workdir / "status.txt").write_text("1\n")
    assert cli.main([*args, "--report"]) == 0
    out = capsys.readouterr().out
    assert (folder / "report.md").read_text() == out
    header, _, *rows = cells(out)
    assert header == ["rank", "run", "lr", "seed", "eval/noise25/psnr", "step", "state"]
    assert rows == [
        ["1", "lr=0.001,seed=1", "0.001", "1", "27.2500", "20/20", "finished"],
        ["2", "lr=0.001,seed=0", "0.001", "0", "25.5000", "20/20", "finished"],
        ["", "lr=0.01,seed=0", "0.01", "0", "", "10/20", "unfinished"],
        ["", "lr=0.01,seed=1", "0.01", "1", "", "10/20", "failed (status 1)"],
    ]
    assert f"best: {second.name}\nweights: {second.workdir}/weights.safetensors\n" in out
    with Image.open(folder / "report.png") as picture:
        colours = picture.convert("RGB").getcolors(10**6)
    assert len(colours) > 20  # white, axes, and lines


def test_lower_is_better_where_the_file_says_so_and_nan_is_last(sweep, tmp_path, capsys):
    read, args, _ = sweep
    for run, score in zip(read.runs, (3.0, float("nan"), 1.0, 2.0), strict=True):
        measured(run, [score], result=score)
    sweep_files.write(tmp_path, head=METRIC.replace("higher", "lower"))
    assert cli.main([*args, "--report"]) == 0
    out = capsys.readouterr().out
    assert [row[4] for row in cells(out)[2:]] == ["1.0000", "2.0000", "3.0000", "nan"]
    assert f"best: {read.runs[2].name}\n" in out


def test_without_a_finished_run_there_is_no_best(sweep, capsys):
    read, args, folder = sweep
    folder.mkdir()
    lock = locks.take(read.runs[1].workdir / locks.RUN)
    assert cli.main([*args, "--report"]) == 0
    lock.close()
    out = capsys.readouterr().out
    assert [row[-1] for row in cells(out)[2:]] == ["not started", "running"] + ["not started"] * 2
    assert "best: none yet" in out


def test_a_metric_that_was_not_measured_is_named(sweep, tmp_path, capsys):
    read, args, _ = sweep
    measured(read.runs[0], [1.0], result=1.0)
    sweep_files.write(tmp_path, head=METRIC.replace("noise25", "noise52"))
    assert cli.main([*args, "--report"]) == 2
    error = capsys.readouterr().err
    assert "METRIC is eval/noise52/psnr" in error and "eval/noise25/psnr, loss" in error


def test_without_matplotlib_the_table_is_there_and_a_line_says_what_to_install(sweep):
    read, args, folder = sweep
    measured(read.runs[0], [25.0], result=25.0)
    script = (
        "import sys; sys.modules['matplotlib'] = None; sys.modules['matplotlib.figure'] = None\n"
    )
    script += f"from tdr_jax import cli; sys.exit(cli.main({[*args, '--report']!r}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0
    assert f"best: {read.runs[0].name}" in done.stdout
    assert done.stderr.count("\n") == 1 and "pip install 'tdr_jax[plot]'" in done.stderr
    assert not (folder / "report.png").exists()
