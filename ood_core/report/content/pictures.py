"""The pictures that training stages have left in the store, copied beside the report."""

from __future__ import annotations

import shutil
from pathlib import Path

from ood_core.records.findings import Picture
from ood_core.records.results import Results
from ood_core.records.stages import TrainStage
from ood_core.store.store import Store, replacing

FOLDER = "pictures"


def copy_pictures(results: Results, store: Store, folder: Path) -> list[Picture]:
    """Copy the pictures of all stages into the report's folder and return them in the order of the stages."""
    copied = []
    for record in results.records:
        if not isinstance(record.stage, TrainStage):
            continue
        for name, file in record.facts.get("pictures", {}).items():
            target = folder / FOLDER / f"{record.stage.key[:8]}-{file}"
            target.parent.mkdir(exist_ok=True)
            with replacing(target) as temporary:
                shutil.copyfile(store.file(record.stage, file), temporary)
            copied.append(Picture(f"{name} ({record.stage}, seed {record.stage.seed})", f"{FOLDER}/{target.name}"))
    return copied
