"""Whatever a config's field is set to, it is taken as it is or refused with what would be right."""

import copy
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from configs import common
from tdr_jax import cli
from tdr_jax.errors import InputError
from tdr_jax.objectives import schema
from tdr_jax.train import config as configs
from tests.support import sweep_files

QUICKSTART = str(sweep_files.ROOT / "configs" / "quickstart.py")
DEFAULTS = common.get_config().to_dict()
SIMPLE = some.one_of(
    some.none(),
    some.booleans(),
    some.integers(),
    some.floats(),
    some.text(max_size=8),
    some.sampled_from(["", "(", "cosine", "noise", "float32", "full", "[", "\0"]),
)
VALUES = some.recursive(
    SIMPLE, lambda inner: some.lists(inner, max_size=4).map(tuple), max_leaves=8
)


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(name=some.sampled_from(sorted(schema.FIELDS)), value=VALUES)
def test_a_value_fits_or_is_named_with_what_does(name, value):
    config = _changed(DEFAULTS, name, value)
    if schema.FIELDS[name].fits(value):
        schema.check(config)
        return
    with pytest.raises(InputError) as refused:
        schema.check(config)
    assert str(refused.value) == f"config.{name} is {value!r}; give {schema.FIELDS[name].says}"


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(
    name=some.sampled_from(sorted(schema.FIELDS)),
    value=VALUES.map(str) | some.text("(),'\"0123456789.e-{}[]=x ", max_size=12),
)
def test_words_of_the_command_line_never_end_in_a_traceback(name, value):
    try:
        configs.read(QUICKSTART, [f"--config.{name}={value}"])
    except InputError as refused:
        assert "\n" not in str(refused) and f"config.{name}" in str(refused)


@pytest.mark.parametrize(
    "word, said",
    [
        ("--config.optim.lrr=1", "config.optim.lrr is no field of a training config; did you mean"),
        ("--config.seed=1.5", "config.seed is '1.5'; give a whole number of 64 bits"),
        ("--config.data.workers=-1", "config.data.workers is -1; give a whole number of at least"),
        ("--config.data.sigmas=15,x", "config.data.sigmas is ('15,x',); give a tuple, each a numb"),
        ("--config.data.pairs=(('a','b'),)", "config.data.pairs is (('a', 'b'),); give a tuple, e"),
        ("--config.mesh.rules=(('(',0),)", "config.mesh.rules is (('(', 0),); give a tuple, each "),
        ("--config.optim.no_decay=(", "config.optim.no_decay is '('; give a regular expression"),
        ("--config.data=3", "--config.data=3: "),
        (
            "--flagfile=nowhere",
            "--flagfile: No such file or directory: 'nowhere'; give a text file",
        ),
    ],
)
def test_a_slip_is_told_with_the_remedy(word, said, tmp_path, capsys):
    words = ["--config", QUICKSTART, "--workdir", str(tmp_path / "run"), word]
    assert cli.main(["train", *words]) == cli.main(words, script="train.py") == 2
    first, second = capsys.readouterr().err.splitlines()
    assert said in first and first.startswith("tdr: error: ")
    assert second.startswith("train.py: error: ")
    assert not (tmp_path / "run").exists()


def test_a_flagfile_stands_for_its_flags(tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text("# of a first try\n--config.seed=7\n--config.data.sigmas=(5, 10)\n")
    config = configs.read(QUICKSTART, [f"--flagfile={file}", "--config.keep=1"])
    assert (config.seed, config.data.sigmas, config.keep) == (7, (5, 10), 1)


def test_a_config_that_lacks_a_field_is_told_where_to_begin():
    config = copy.deepcopy(DEFAULTS)
    del config["optim"]["clip"]
    with pytest.raises(InputError, match=r"config\.optim\.clip is missing; begin with the get_con"):
        schema.check(config)


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_the_scripts_say_what_they_miss(script):
    done = subprocess.run(
        [sys.executable, script, "--config", QUICKSTART],
        capture_output=True,
        text=True,
        cwd=sweep_files.ROOT,
    )
    assert (done.returncode, done.stdout) == (2, "")
    missing = f"the following arguments are required: --workdir; see '{script} --help'"
    assert done.stderr == f"{script}: error: {missing}\n"


def _changed(config: dict, name: str, value) -> dict:
    config = copy.deepcopy(config)
    *groups, last = name.split(".")
    group = config
    for part in groups:
        group = group[part]
    group[last] = value
    return config


@pytest.mark.parametrize(
    "word, said",
    [
        ("width=0", "is empty"),
        ("enc_blk_nums=(1,1)", "2 numbers of enc_blk_nums, config.dec_blk_nums=(1, 1, 1)"),
        ("width=3.5", "3.5"),
    ],
)
def test_a_network_that_cannot_be_run_is_told_before_the_run(word, said, tmp_path, capsys):
    network = "configs/backbone.py:name=nafnet,task=denoise,size=small,data=examples/photos/train"
    words = ["--config", str(sweep_files.ROOT / network), "--workdir", str(tmp_path / "run")]
    assert cli.main([*words, f"--config.network.overrides.{word}"], script="train.py") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not (tmp_path / "run").exists()
