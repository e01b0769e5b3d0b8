"""The recipe of the shipped weights, shortened: how much of a Fourier loss at which learning rate.

    tdr sweep configs/sweeps/compact_loss.py --workdir runs/loss --set data.path=PHOTOS \
--launcher local

PHOTOS is a folder of clean photographs; without it the ten shipped ones are learnt, which are too
few to choose by. A run is 300 of the recipe's 2,700 steps. Where two runs are close, add seeds
of both before believing the order.
"""

CONFIG = "configs/textpromptir.py:size=compact,data=examples/photos/train,eval=examples/photos/test"
METRIC, BETTER = "eval/noise25/psnr", "higher"
STEPS = 300


def sweep(add):
    """Add the runs."""
    for lr in (4e-4, 8e-4):
        for fft in (0.0, 0.02, 0.1):
            add(
                {
                    "optim.lr": lr,
                    "loss.fft": fft,
                    "data.stages": ((STEPS, 64, 16),),
                    "eval_every": STEPS,
                    "eval_data.size": 256,
                }
            )
