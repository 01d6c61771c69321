"""`ood serve`: a detector as a web service."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from ood_core.cli.echo import echo
from ood_core.cli.options import DetectorName, Device
from ood_core.cli.runs import detector_folder

EXTRA = ("fastapi", "fastapi_offline", "httptools", "prometheus_client", "python_multipart", "uvicorn")
"""Packages that only the service needs."""


def command(
    run: DetectorName,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 admits the whole network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8000,
    device: Device = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Maximum number of images in a forward pass.")] = 32,
    max_wait: Annotated[
        float, typer.Option(min=0, help="Milliseconds to wait for images that are being decoded.")
    ] = 2.0,
    queue: Annotated[int, typer.Option(min=1, help="Maximum number of accepted images without an answer.")] = 256,
    max_images: Annotated[int, typer.Option(min=1, help="Maximum number of images in a request.")] = 64,
    max_bytes: Annotated[int, typer.Option(min=1, help="Maximum size of a request.")] = 32 * 2**20,
    max_pixels: Annotated[int, typer.Option(min=1, help="Maximum number of pixels of an image.")] = 50_000_000,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds for a request.")] = 60.0,
    grace: Annotated[float, typer.Option(min=1, help="Seconds from the stop signal to the end.")] = 20.0,
) -> None:
    """Serve a detector: images to POST /score, a page at /, its API at /docs, /healthz, /readyz and /metrics.

    Concurrent requests share forward passes. SIGTERM and Ctrl-C finish accepted requests first.
    """
    from ood_core.errors import OODError

    for name in EXTRA:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            missing = error.name or name
            raise OODError(
                f"ood serve needs '{missing}', which is not installed: pip install 'ood-framework[serve]'"
            ) from None
    from ood_core.detector import Detector
    from ood_serve.limits import Limits
    from ood_serve.server import listen, serve
    from ood_serve.service import Service

    limits = Limits(batch_size, max_wait, queue, max_images, max_bytes, max_pixels, timeout, grace)
    folder = detector_folder(run)
    with listen(host, port) as listening:
        detector = Detector.load(folder, device=device)
        bound = listening.getsockname()[:2]
        where = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
        message = f"serving {detector.name} ({', '.join(detector.scorers)}) on http://{where}"
        serve(Service(detector.state, limits), listening, lambda: echo(message))
