"""The quickstart at two learning rates and two seeds, about a minute each on 2 CPU cores.

tdr sweep configs/sweeps/quickstart_lr.py --workdir runs/lr --launcher local
tdr sweep configs/sweeps/quickstart_lr.py --workdir runs/lr --report
"""

CONFIG = "configs/quickstart.py:steps=20"
METRIC, BETTER = "eval/noise25/psnr", "higher"


def sweep(add):
    """Add the runs."""
    for lr in (1e-5, 1e-3):
        for seed in (0, 1):
            add({"optim.lr": lr, "seed": seed})
