"""``python -m ood_core.runtime.torchvision_hook``: let every script of this environment import torchvision.

Beside a CPU build of torch, that writes a line into a ``.pth`` file, which Python reads as it starts.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from ood_core.runtime.torchvision_compat import prepare_torchvision

# ImportError: the framework was uninstalled, and the file is still there
_LINE = (
    r'import sys; exec("try:\n import ood_core.runtime.torchvision_finder as found\n'
    r'except ImportError:\n pass\nelse:\n found.install_finder()")'
)


def write_hook(folder: Path) -> Path | None:
    """Write the file into the site-packages of an environment, and return it.

    Where torchvision's own library loads, the result is None, and the file of another build of torch is removed.
    """
    file = folder / "ood_torchvision.pth"
    if prepare_torchvision() is None:
        file.unlink(missing_ok=True)
        return None
    file.write_text(_LINE + "\n", encoding="utf-8")
    return file


if __name__ == "__main__":
    if written := write_hook(Path(sysconfig.get_path("purelib"))):
        sys.stdout.write(f"torchvision is built for CUDA, torch is not: {written} lets torchvision be imported\n")
