"""What a program compiled for TPUs costs is read from its text as it can be reckoned by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tdr_jax.analysis import hardware, hlo
from tdr_jax.errors import InputError
from tdr_jax.nn import backend, layers

MEGA = 2**20


@pytest.fixture(scope="module")
def mesh():
    hardware.prepare()
    _, devices = hardware.slice_of("v5e:2x2")
    return jax.make_mesh((4,), ("data",), (AxisType.Auto,), devices=devices)


def compiled(function, mesh, *shapes, specs=None):
    """The program of one chip, for arrays that are whole on each unless `specs` says otherwise."""
    specs = specs or [P()] * len(shapes)
    arguments = [
        jax.ShapeDtypeStruct(shape, "float32", sharding=NamedSharding(mesh, spec))
        for shape, spec in zip(shapes, specs, strict=True)
    ]
    jitted = jax.jit(function, out_shardings=NamedSharding(mesh, P()))
    program = jitted.lower(*arguments).compile()
    return hlo.Program(program.as_text()).cost, program.cost_analysis()


def test_a_product_reads_its_factors_and_writes_its_result(mesh):
    cost, xla = compiled(jnp.matmul, mesh, (4096, 2048), (2048, 1024))
    assert cost.flops == xla["flops"] == 2 * 4096 * 2048 * 1024
    assert cost.traffic == 4 * (4096 * 2048 + 2048 * 1024 + 4096 * 1024)
    assert not cost.collectives


@pytest.mark.parametrize("groups", [1, 128])
def test_convolutions_count_what_meets_and_not_the_padding(mesh, groups):
    def conv(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    cost, _ = compiled(conv, mesh, (8, 32, 32, 128), (3, 3, 128 // groups, 128))
    meet = (3 * 32 - 2) ** 2  # each side: three taps, one of which falls out at either end
    assert cost.flops == 2 * 8 * meet * 128 * 128 // groups


def test_a_loop_counts_as_often_as_it_runs(mesh):
    def repeated(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=7)[0]

    cost, xla = compiled(repeated, mesh, (4096, 4096), (4096, 4096))
    assert cost.flops == 7 * 2 * 4096**3
    assert xla["flops"] < cost.flops / 6  # XLA's own count takes one round
    assert 7 <= cost.traffic / (4 * 4096**2) <= 7 * 3 + 4  # one factor or both stay in fast memory


def test_a_loop_of_unknown_length_is_told(mesh):
    def until(x):
        return jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ x, x)

    cost, _ = compiled(until, mesh, (1024, 1024))
    assert cost.unknown == 1 and cost.flops == 2 * 1024**3


def test_what_stays_in_fast_memory_is_no_traffic(mesh):
    def repeated(x):
        return jax.lax.fori_loop(0, 100, lambda _, x: jnp.sin(x) * 2, x)

    cost, _ = compiled(repeated, mesh, (256, 1024))
    assert cost.traffic <= 4 * MEGA  # read once and written once, not a hundred times


def test_a_sum_over_chips_counts_as_the_bytes_of_its_result(mesh):
    cost, _ = compiled(lambda x: x.sum(0), mesh, (4, 8, MEGA), specs=[P("data")])
    assert dict(cost.collectives) == {"all-reduce": 4 * 8 * MEGA}


def test_gathering_counts_as_the_bytes_that_arrive(mesh):
    cost, _ = compiled(lambda x: 2 * x, mesh, (1024, 8, 128), specs=[P("data")])
    assert dict(cost.collectives) == {"all-gather": 4 * MEGA}


def test_layouts_are_counted_with_their_padding():
    text = """
ENTRY %main (x: f32[4096,8,130]) -> f32[4096,8,130] {
  %x = f32[4096,8,130]{2,1,0:T(8,128)} parameter(0)
  ROOT %y = f32[4096,8,130]{0,1,2:T(8,128)} copy(%x)
}
"""
    # Rows of 130 numbers take two tiles of 128; the other way round none is filled up.
    assert hlo.Program(text).cost.traffic == 4 * 4096 * 8 * (256 + 130)


class Block(nnx.Module):
    def __init__(self, width=128):
        self.linear = layers.Linear(width, width, bias=False)

    def __call__(self, x):
        return x + jnp.sin(self.linear(x))


def test_gradients_of_a_batch_in_parts_are_summed_over_chips_once(mesh):
    graphdef, params = nnx.split(layers.Stage(Block, 3, microbatches=4))

    def gradient(params, x):
        def loss(params):
            with backend.batch_over(mesh):
                return nnx.merge(graphdef, params)(x).sum()

        return jax.grad(loss)(params)

    whole, cut = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=whole), params)
    x = jax.ShapeDtypeStruct((32, 64, 128), "float32", sharding=cut)
    program = jax.jit(gradient, out_shardings=whole).lower(params, x).compile()
    cost = hlo.Program(program.as_text()).cost
    assert cost.collectives["all-reduce"] == 4 * 3 * 128 * 128


def test_what_devices_share_is_gathered_a_block_at_a_time(mesh):
    depth = 8
    graphdef, params = nnx.split(layers.Stage(functools.partial(Block, 1024), depth, remat="full"))
    shared = jax.make_mesh(
        (1, 4), ("data", "fsdp"), (AxisType.Auto,) * 2, devices=[*mesh.devices.flat]
    )
    whole, cut = NamedSharding(shared, P()), NamedSharding(shared, P(None, None, "fsdp"))

    def gradient(params, x):
        def loss(params):
            with backend.batch_over(shared):
                return nnx.merge(graphdef, params)(x).sum()

        return jax.lax.with_sharding_constraint(jax.grad(loss)(params), cut)

    params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=cut), params)
    x = jax.ShapeDtypeStruct((4, 8, 1024), "float32", sharding=whole)
    program = jax.jit(gradient).lower(params, x).compile()
    size = 4 * 1024**2
    assert program.memory_analysis().temp_size_in_bytes < 3 * size  # of 8 blocks
    gathered = hlo.Program(program.as_text()).cost.collectives["all-gather"]
    assert gathered >= 0.9 * depth * size  # all the same, and once more for the backward pass


@pytest.mark.parametrize(
    "topology, said",
    [
        ("v5e", "give a kind of TPU and the shape of a slice"),
        ("h100:8", "kinds: v4, v5e, v5p, v6e"),
        ("v5e:3x5", "not divisible"),
    ],
)
def test_a_slice_that_does_not_exist_is_refused(topology, said):
    with pytest.raises(InputError, match=said):
        hardware.slice_of(topology)
