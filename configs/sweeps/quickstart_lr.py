"""The quickstart at two learning rates and two seeds, about a minute and a half of CPU time each.

    tdr sweep configs/sweeps/quickstart_lr.py --workdir runs/lr --launcher local
    tdr sweep configs/sweeps/quickstart_lr.py --workdir runs/lr --report

The shipped network is trained already: 20 steps at 1e-3 end 1.6 dB below 20 steps at 1e-5.
"""

CONFIG = "configs/quickstart.py:steps=20"
METRIC, BETTER = "eval/noise25/psnr", "higher"


def sweep(add):
    """Add the runs."""
    for lr in (1e-5, 1e-3):
        for seed in (0, 1):
            add({"optim.lr": lr, "seed": seed})
