"""Whatever the mesh, a run learns what it learns on one device."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import common
from tdr_jax.errors import InputError
from tdr_jax.train import optim, sharding, state
from tests.support import meshes, stacks
from tests.support.programs import on_devices

ROOT = Path(__file__).resolve().parents[2]
FULL = [pytest.param(name, marks=pytest.mark.full) for name in meshes.FULL]
OBJECTIVES = pytest.mark.parametrize("objective", [*meshes.OBJECTIVES, *FULL])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pytestconfig):
    """The same steps of every objective on several meshes: folder/<objective>/<mesh>.npz."""
    folder = tmp_path_factory.mktemp("meshes")
    objectives = meshes.FULL if pytestconfig.getoption("--full") else meshes.OBJECTIVES
    stacks.make(folder / "i2t" / "stack")
    subprocess.run(
        [sys.executable, "-m", "tests.support.meshes", folder, *objectives],
        env=on_devices(8) | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        check=True,
    )
    return folder


def runs(trained, objective):
    """What an objective learnt on each mesh, a dict of arrays."""
    names = ("single", *meshes.LAYOUTS[objective])
    return {name: dict(np.load(trained / objective / f"{name}.npz")) for name in names}


@OBJECTIVES
def test_losses_and_parameters_are_those_of_one_device(trained, objective):
    found = runs(trained, objective)
    alone = found.pop("single")
    assert len(alone["losses"]) == meshes.STEPS and np.ptp(alone["losses"]) > 0
    for mesh, run in found.items():
        for name, value in alone.items():
            if name == "arrays cut":
                continue
            scale = np.abs(value).max()
            error = np.abs(run[name] - value).max()
            assert error <= 1e-5 * max(scale, 1.0), f"{mesh}: {name} is {error} off"


@OBJECTIVES
def test_the_state_is_cut_where_the_mesh_says_so(trained, objective):
    cut = {mesh: int(run["arrays cut"]) for mesh, run in runs(trained, objective).items()}
    assert cut["single"] == cut.get("8x1", 0) == 0
    assert min(cut[mesh] for mesh in {"1x8", "4x2", "accumulated"} & cut.keys()) >= 8


class Eight:
    """Enough of a mesh for the rules: eight devices, four of them to one copy."""

    shape = {"data": 2, "fsdp": 4}
    axis_names = ("data", "fsdp")


def test_the_largest_dimension_that_divides_is_cut_unless_a_rule_says_otherwise():
    layout = sharding.Layout(Eight(), (("head", None), (r"^embed\.", 0)), min_size=100)
    assert tuple(layout.spec("a.kernel", (4, 3, 3, 64))) == (None, None, None, "fsdp")
    assert tuple(layout.spec("a.kernel", (12, 3, 3, 7))) == ("fsdp",)
    assert tuple(layout.spec("a.bias", (64,))) == ()  # small
    assert tuple(layout.spec("a.odd", (33, 35))) == ()  # nothing divides
    assert tuple(layout.spec("a.head.kernel", (64, 64))) == ()
    assert tuple(layout.spec("embed.table", (8, 4096))) == ("fsdp",)
    with pytest.raises(InputError, match="does not divide into 4 parts"):
        layout.spec("embed.odd", (6, 64))


def test_a_rule_that_matches_no_parameter_is_refused():
    layout = sharding.Layout(Eight(), (("head", None), (r"^embd\.", 0)))
    layout.check({"head.kernel": 0, "embd.table": 0})
    with pytest.raises(InputError, match=r"config.mesh.rules has '\^embd.*such as head.kernel"):
        layout.check({"head.kernel": 0, "embed.table": 0})


def test_moments_are_cut_as_their_parameters_are():
    layout = sharding.Layout(Eight(), min_size=1)
    config = common.get_config()
    optimiser, _ = optim.make(config.optim, 10)
    params = {"a.b": jax.ShapeDtypeStruct((4, 8), "float32")}
    shapes = jax.eval_shape(
        lambda p: state.create(p, optimiser, ema_decay=0.9, layout=None), params
    )
    found = [
        tuple(layout.spec(sharding.name_of(path), leaf.shape))
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
        if leaf.shape
    ]
    assert found == [(None, "fsdp")] * 4  # the parameter, two moments and the average


@pytest.mark.parametrize("fsdp", [3, -1])
def test_a_mesh_that_does_not_divide_is_refused(fsdp):
    config = common.get_config().mesh
    config.fsdp = fsdp
    with pytest.raises(InputError, match=f"config.mesh.fsdp is {fsdp}, but there are"):
        sharding.make(config, jax.devices() * 8)
