"""One evaluation on one device and on four, told as JSON: `python -m tests.support.over_devices`.

Devices are simulated only if the environment says so before JAX starts, so this is a process of its
own.
"""

import dataclasses
import json
import os
import subprocess
import sys
import types

COUNT = 4


def measure() -> dict:
    """Runs this file: rows by (devices, ensemble), as lists of scores by picture."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={COUNT}"
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    import jax.numpy as jnp
    import numpy as np
    from skimage import data

    from tdr_jax.evaluate import evaluate, evaluators, scoring
    from tdr_jax.models import Capabilities

    @dataclasses.dataclass(frozen=True)
    class Blur(Capabilities):
        """Looks at neighbours, at the whole picture, and at what is left of a place."""

        name: str = "blur"

        @property
        def config(self):
            return types.SimpleNamespace(multiple=8, channels=(3, 3))

        def apply(self, params, images):
            near = jnp.roll(images, 1, 2) + images + jnp.roll(images, -1, 1)
            return params["scale"] * near / 3 + 0.1 * images.mean((1, 2), keepdims=True)

    # Eleven pictures of three sizes, the middle ones no multiple of what the network needs.
    sizes = [(48, 64), (37, 53), (64, 48)]
    photo = data.astronaut()
    pictures = [photo[7 * i :, 31 * i :][: sizes[i % 3][0], : sizes[i % 3][1]] for i in range(11)]
    found = {}
    for devices in (1, 3, COUNT):
        for ensemble in (False, True):
            how = evaluators.How(
                scoring.Measure(scoring.protocol("basicsr")), ensemble, devices=devices
            )
            (row,) = evaluate(
                Blur(), {"scale": np.float32(0.8)}, None, pictures, ["noise25"], how=how
            )
            found[f"{devices} {ensemble}"] = [[s.name, s.psnr, s.ssim] for s in row.scores]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
