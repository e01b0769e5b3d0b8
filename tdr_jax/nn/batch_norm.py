"""Batch normalisation, whose running statistics are parameters that a step counts on."""

from flax import nnx
from jax import lax
from jaxtyping import Float, Float32

from tdr_jax.nn import layers
from tdr_jax.nn.typing import Array

Running = dict[str, Float[Array, "..."]]


class BatchNorm(nnx.Module):
    """Normalises values over the batch (eps 1e-5, momentum 0.1, as in torch)."""

    def __init__(self, features: int):
        self.weight = layers.param((features,), constant=1.0)
        self.bias = layers.param((features,))
        self.running_mean = layers.param((features,))
        self.running_var = layers.param((features,), constant=1.0)
        self.num_batches_tracked = layers.param(())

    def __call__(
        self, x: Float32[Array, "b c"], training: bool
    ) -> tuple[Float32[Array, "b c"], Running]:
        """Returns the normalised values and, in training, the new running statistics.

        Raises:
            ValueError: training with a batch of one, whose variance says nothing.
        """
        mean, variance, running = self.running_mean[...], self.running_var[...], {}
        if training:
            batch = x.shape[0]
            if batch == 1:
                raise ValueError("a batch of one picture has no batch statistics: train on more")
            before, mean, variance = (mean, variance), x.mean(0), x.var(0)
            running = {
                "running_mean": 0.9 * before[0] + 0.1 * mean,
                "running_var": 0.9 * before[1] + 0.1 * variance * (batch / (batch - 1)),
                "num_batches_tracked": self.num_batches_tracked[...] + 1,
            }
            running = {name: lax.stop_gradient(value) for name, value in running.items()}
        scale = self.weight[...] * lax.rsqrt(variance + 1e-5)
        return (x - mean) * scale + self.bias[...], running


def prefixed(name: str, running: Running) -> Running:
    """Puts a module's name before the names of its running statistics."""
    return {f"{name}.{key}": value for key, value in running.items()}
