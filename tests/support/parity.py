"""What the comparisons of our networks with PyTorch modules share."""

import jax
import numpy as np
import torch
import torch.nn.functional as F

from tdr_jax import convert, models


def relative(ours, theirs):
    """Largest difference over largest magnitude."""
    theirs = theirs.detach().numpy()
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def nhwc(tensor):
    """A torch picture as ours."""
    return jax.device_put(tensor.detach().permute(0, 2, 3, 1).float().numpy())


def shaken(module, by=0.05):
    """Moves every parameter off its start, so that ones and zeros are tested too."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module


def padded(module, images, multiple=8, mode="reflect"):
    """Runs a module that wants whole multiples on a picture of any size, by reflection."""
    height, width = images.shape[2:]
    images = F.pad(images, (0, -width % multiple, 0, -height % multiple), mode=mode)
    return module(images)[:, :, :height, :width]


def assert_outputs_equal(name, module, shape, **sizes):
    """Outputs agree within 1e-5.

    Args:
        name: of our network.
        module: the torch one, for pictures alone.
        shape: (B, C, H, W) of the pictures; H and W need not be multiples of anything.
        **sizes: fields of our network's config.
    """
    images = torch.rand(shape)
    with torch.no_grad():
        y = padded(module, images)
    network = models.build(name, **sizes)
    params = convert.from_torch(name, module.state_dict(), **sizes)
    out = jax.jit(network.apply)(params, nhwc(images))
    assert out.shape == (shape[0], *shape[2:], network.config.channels[1])
    assert relative(out, y.permute(0, 2, 3, 1)) < 1e-5


def assert_gradients_equal(name, module, shape, **sizes):
    """As above, and gradients of every parameter and of the pictures within 1e-4."""
    images = torch.rand(shape, requires_grad=True)
    y = padded(module, images)
    direction = torch.randn_like(y)
    module.zero_grad()
    (y * direction).sum().backward()

    network = models.build(name, **sizes)
    params = convert.from_torch(name, module.state_dict(), **sizes)

    def objective(params, images):
        out = network.apply(params, images)
        return (out * nhwc(direction)).sum(), out

    gradient = jax.grad(objective, argnums=(0, 1), has_aux=True)
    (gradients, dimages), out = jax.jit(gradient)(params, nhwc(images))
    assert relative(out, y.permute(0, 2, 3, 1)) < 1e-5
    assert relative(dimages, images.grad.permute(0, 2, 3, 1)) < 1e-4
    gradients = convert.to_torch(name, gradients, **sizes)
    for key, parameter in module.named_parameters():
        assert relative(gradients[key], parameter.grad) < 1e-4, key


def assert_round_trip(name, module, fresh, **sizes):
    """`to_torch` gives back every bit, and a `fresh` module of the kind loads it strictly."""
    state = module.state_dict()
    back = convert.to_torch(name, convert.from_torch(name, state, **sizes), **sizes)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    fresh.load_state_dict(back, strict=True)
