"""A sweep prints lines of a shell that train.py reads as it was meant, under names that tell."""

import shlex

import numpy as np
import pytest

from tdr_jax import cli
from tdr_jax.errors import InputError
from tdr_jax.sweeps import plan
from tdr_jax.train import config as configs
from tests.support import sweep_files


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(sweep_files.ROOT)


def read(folder, body, workdir="runs/s", settings=(), **kwargs):
    return plan.read(sweep_files.write(folder, body, **kwargs), workdir, settings)


def names(sweep):
    return [run.name for run in sweep.runs]


VALUES = {
    "optim.lr": 0.1 + 0.2,
    "seed": -3,
    "data.path": 'my photos/it\'s $HOME; `ls` "x" ä|*',
    "encoder": "",
    "data.stages": ((20, 32, 4), (3, 64, 1)),
    "data.sigma_range": (),
    "data.tasks": ("noise",),
    "optim.periods": (5,),
    "optim.eta_mins": (1e-6, None),
    "optim.lr_of": ((r"^a\.b|'c'", 1e-4),),
    "network.overrides.remat": "full",
    "stack.template": "None",
}


@pytest.mark.parametrize("workdir", ["runs/s", "my runs/it's"])
def test_every_printed_line_is_read_back_to_the_same_config(tmp_path, capsys, workdir):
    body = f"add({VALUES!r})\nadd({{'data.path': '--config.seed=5'}})"
    file = sweep_files.write(tmp_path, body)
    assert cli.main(["sweep", file, "--workdir", workdir, "--set", "ema=0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    runs = plan.read(file, workdir, ["ema=0.5"]).runs
    assert len(lines) == len(runs) == 2
    for line, run in zip(lines, runs, strict=True):
        python, script, config, folder, *words = shlex.split(line)
        assert (python, script) == ("python", "train.py")
        assert folder == f"--workdir={workdir}/{run.name}"
        read_back = configs.read(config.removeprefix("--config="), words)
        assert read_back.to_dict() == run.config.to_dict()
        assert read_back.ema == 0.5
    first, second = (run.config for run in runs)
    for name, value in VALUES.items():
        found = first
        for part in name.split("."):
            found = found[part]
        assert found == value and type(found) is type(value), name
    assert second.data.path == "--config.seed=5" and second.seed == 0


def test_names_tell_what_differs(tmp_path):
    sweep = read(tmp_path, sweep_files.TWO_BY_TWO)
    assert names(sweep) == [
        "lr=0.001,seed=0",
        "lr=0.001,seed=1",
        "lr=0.01,seed=0",
        "lr=0.01,seed=1",
    ]
    assert (sweep.metric, sweep.better) == ("loss", "lower")
    # What all runs share is not in their names, what one leaves out is, as the config has it.
    sweep = read(tmp_path, "add({'optim.lr': 1, 'ema': 0.5})\nadd({'optim.lr': 1})")
    assert names(sweep) == ["ema=0.5", "ema=0.99"]
    # Two fields with one last part keep their full names.
    body = "for a in (0, 1):\n    for b in ('x/y', '../z'):\n"
    body += "        add({'guidance.path': b, 'data.path': b, 'seed': a})"
    assert names(read(tmp_path, body))[:2] == [
        "guidance.path=x-y,data.path=x-y,seed=0",
        "guidance.path=..-z,data.path=..-z,seed=0",
    ]
    body = "add({'data.stages': ((20, 32, 4),)})\nadd({'data.stages': ((20, 32, 4), (2, 64, 1))})"
    assert names(read(tmp_path, body)) == ["stages=20-32-4", "stages=20-32-4-2-64-1"]
    assert names(read(tmp_path, "add({'seed': 4})")) == ["seed=4"]
    assert names(read(tmp_path, "add({})")) == ["run"]
    # NumPy's grids are numbers.
    grid = read(tmp_path, "import numpy as np\nfor x in np.linspace(0, 1, 3): add({'ema': x})")
    assert names(grid) == [f"ema={x}" for x in np.linspace(0, 1, 3).tolist()]


def test_names_are_safe_unique_and_always_the_same(tmp_path):
    body = "for p in ('a/b', 'a b', 'A/B', 'x' * 300, 'x' * 299): add({'data.path': p})"
    first, again = names(read(tmp_path, body)), names(read(tmp_path, body))
    assert first == again
    assert len({name.lower() for name in first}) == 5
    for name in first:
        assert len(name) < 120 and not set(name) & set("/\\ \t\n'\"$*?")
    reverse = body.replace("300, 'x' * 299", "299, 'x' * 300")
    assert set(names(read(tmp_path, reverse))) == set(first)


@pytest.mark.parametrize(
    "body, line",
    [
        ("add({'optim.rl': 1})", "rl.* is no field of a training config"),
        ("add({'optm.lr': 1})", "optm.* is no field of a training config"),
        ("add({'network.overrides.widht': 1})", "widht.* is no field of a training config"),
        ("add({'optim.lr': 'fast'})", "optim.lr.*fast"),
        ("add({'seed': 0.5})", "seed.*0.5"),
        ("add({'seed': None})", "seed.*None"),
        ("add({'optim': 3})", "optim"),
        ("add({'seed': 0})\nadd({})", "adds the same run twice: seed=0"),
        ("add({'data.stages': (5, 32, 1)})", r"give \(\(steps, crop, batch\), \.\.\.\)"),
        ("add({'data.path': 'a\\nb'})", "cannot have line breaks"),
        ("add(['seed'])", "give a dict of fields"),
        ("pass", "adds no run"),
        ("add({'seed': 1 / 0})", "sweep.add. fails: ZeroDivisionError"),
        ("add({'ema': 0.1})", "sets ema itself; leave --set ema=... out"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(tmp_path, capsys, body, line):
    file = sweep_files.write(tmp_path, body)
    with pytest.raises(InputError, match=line):
        plan.read(file, str(tmp_path / "runs"), ["ema=0.5"])
    args = ["sweep", file, "--workdir", str(tmp_path / "runs"), "--launcher", "local"]
    assert cli.main([*args, "--set", "ema=0.5"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tdr: error: {file}: ") and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_files_that_are_no_sweeps_are_refused(tmp_path):
    for text, line in [
        ("def sweep(add): add({})", "has no CONFIG"),
        ("CONFIG = 'configs/quickstart.py'", r"has no function sweep\(add\)"),
        ("CONFIG = ", "SyntaxError"),
        ("CONFIG = 'configs/none.py'\ndef sweep(add): add({})", "configs/none.py: no such config"),
        ("CONFIG = 'configs/quickstart.py:stes=3'\ndef sweep(add): add({})", "stes=3.*is unknown"),
        ("CONFIG = 'c.py'\nMETRIC = 'loss'\ndef sweep(add): add({})", "BETTER, of loss, must be"),
    ]:
        (tmp_path / "wrong.py").write_text(text)
        with pytest.raises(InputError, match=line):
            plan.read(str(tmp_path / "wrong.py"), "runs")
    with pytest.raises(InputError, match="no such sweep file"):
        plan.read(str(tmp_path / "none.py"), "runs")
    good = sweep_files.write(tmp_path)
    for setting, line in [("seed", "give NAME=VALUE"), ("sed=1", "config.sed is no field")]:
        with pytest.raises(InputError, match=line):
            plan.read(good, "runs", [setting])


def test_options_of_another_launcher_are_refused(tmp_path, capsys):
    file = sweep_files.write(tmp_path)
    base = ["sweep", file, "--workdir", str(tmp_path / "runs")]
    for words, line in [
        (["--parallel", "2"], "--parallel is for --launcher local"),
        (["--slurm", "partition=gpu", "--launcher", "local"], "--slurm is for --launcher slurm"),
        (["--parallel", "0", "--launcher", "local"], "give a number of at least 1"),
        (["--report"], "no such folder"),
    ]:
        assert cli.main([*base, *words]) == 2
        assert line in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_shipped_sweeps_fit_their_configs():
    files = sorted((sweep_files.ROOT / "configs" / "sweeps").glob("*.py"))
    assert len(files) >= 2
    for file in files:
        sweep = plan.read(str(file), "runs")
        assert len(sweep.runs) >= 4
        evaluated = {f"eval/{name}/psnr" for name in sweep.runs[0].config.eval_data.settings}
        assert sweep.metric in evaluated and sweep.better == "higher"
