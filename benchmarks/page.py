"""Size of the report pages of two big ablations, time to write them, and to open them in a browser.

python benchmarks/page.py
"""

import runpy
import shutil
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from ood_core.report.formats import page

CORE = Path(__file__).parents[1] / "tests" / "core"
ABLATIONS = {
    "1 network, 64 scorers, 3 OOD sets": {"variants": 1, "scorers": 64},
    "24 networks, 3 scorers, 3 OOD sets": {"variants": 24, "scorers": 3},
}
REPETITIONS = 5


def main():
    synthetic = runpy.run_path(str(CORE / "synthetic_report.py"))["synthetic"]
    names, arguments = (runpy.run_path(str(CORE / "conftest.py"))[name] for name in ("BROWSERS", "ARGUMENTS"))
    found = next(filter(None, map(shutil.which, names)))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        for name, size in ABLATIONS.items():
            findings = synthetic(Path(folder), sets=3, images=1000, classes=10, galleries=15, side=64, **size)
            begun = time.perf_counter()
            text = page.render(findings, Path(folder))
            written = time.perf_counter() - begun
            path = Path(folder) / "report.html"
            path.write_text(text, encoding="utf-8")
            opened = min(opening(browser, path) for _ in range(REPETITIONS))
            weight = len(text.encode()) / 1e6
            print(f"{name:36} {weight:5.2f} MB   written in {written:5.1f} s   opened in {opened:5.2f} s")
        browser.close()


def opening(browser, path):
    """Seconds until the page is loaded, its script has run and the first picture of it is there."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    begun = time.perf_counter()
    tab.goto(path.as_uri(), wait_until="load")
    tab.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    seconds = time.perf_counter() - begun
    tab.close()
    return seconds


if __name__ == "__main__":
    main()
