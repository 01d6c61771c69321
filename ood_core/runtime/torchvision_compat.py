"""Makes `import torchvision` work beside a CPU build of torch.

The wheels of torchvision on PyPI are built for CUDA. Beside a CPU build of torch their compiled library cannot be
loaded (libcudart is missing), and `import torchvision` - and so `import timm` - stops with
``RuntimeError: operator torchvision::nms does not exist``, because it attaches fake kernels to two operators that only
that library declares. Declaring the two schemas is enough for transforms, data sets and timm; the compiled operators
themselves (box suppression, image decoders) stay unavailable, and nothing here uses them.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch


@cache
def prepare_torchvision() -> torch.library.Library | None:
    """Declare the operators torchvision lacks here; call it before the first `import torchvision` or `timm`.

    Returned is the library that keeps the declarations alive, or None if torchvision's own library loads.
    """
    spec = find_spec("torchvision")
    assert spec is not None and spec.origin is not None, "torchvision is a dependency of this package"
    try:
        torch.ops.load_library(str(Path(spec.origin).parent / "_C.so"))  # type: ignore[no-untyped-call]
        return None
    except OSError:
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for kind in ("nms", "qnms"):
            library.define(f"{kind}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        return library
