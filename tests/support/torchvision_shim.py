"""Makes `import spandrel` possible where torchvision is the build of another PyTorch.

spandrel imports torchvision at its top for two small helpers in Python. A torchvision built for
CUDA next to a PyTorch for the CPU cannot load its compiled operators, and then stops in the middle
of its own import, where it describes `torchvision::nms`, which nobody has declared. Declaring the
two operators that it describes unasked is enough. They cannot be called, and nothing calls them.

Import this before spandrel. Where torchvision's own operators load, nothing is declared. For tests
only: users need a torchvision that fits their PyTorch.
"""

import importlib.util
from pathlib import Path

import torch
from torch import library

_SCHEMAS = tuple(
    f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms")
)


def _own_operators_load() -> bool:
    """Loads torchvision's compiled library the way torchvision itself does."""
    folder = Path(importlib.util.find_spec("torchvision").origin).parent
    try:
        for compiled in (*folder.glob("_C*.so"), *folder.glob("_C*.pyd")):
            torch.ops.load_library(compiled)
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")


if not _own_operators_load():
    # Kept for the life of the process: the declarations vanish with the object.
    _LIBRARY = library.Library("torchvision", "DEF")
    for _schema in _SCHEMAS:
        _LIBRARY.define(_schema)

import torchvision  # noqa: E402, F401
