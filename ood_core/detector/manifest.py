"""manifest.json: the description of a saved detector, and a digest of every file beside it.

The last entry is a digest of the manifest itself. Its values have one text only, so that any changed byte is noticed.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from ood_core.data.files import content_digest
from ood_core.detector.state import Normalisation
from ood_core.errors import OODError, one_line
from ood_core.interfaces import EvaluationView, Plugin
from ood_core.plugins import Plugins, installed_versions
from ood_core.recipe.build import with_nested

FILE = "manifest.json"
WEIGHTS, CALIBRATION = "weights.safetensors", "calibration.safetensors"
WITNESS, EXAMPLES, PRETEXT = "witness.safetensors", "examples.safetensors", "pretext.safetensors"
SCORE = "score-{}.safetensors"

FORMAT = 2  # grows when a field changes its meaning
CORE = "ood-framework"
MOST_BYTES = 64 * 2**20  # of a manifest; one of ImageNet's classes has some 100 kB
LIBRARIES = ("torch", "timm", "numpy", "faiss-cpu", "faiss-gpu")  # that outputs and scores may depend on

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")  # of a package, as PEP 508 has it
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class ScorerEntry:
    """A scorer: its name, the plugin as a recipe writes it, its file, and the threshold at the manifest's rate."""

    name: str
    plugin: dict[str, Any]
    file: str
    threshold: Finite | list[Finite]


@dataclass(frozen=True)
class CalibrationEntry:
    """The held-out ID images: their number, whether no scorer was fitted to them, their share of the data."""

    images: Count
    independent: bool
    holdout: Rate


@dataclass(frozen=True)
class Manifest:
    """The entries of the file."""

    format: int
    name: str
    created: str
    variant: str
    case: str
    seed: int
    backbone: dict[str, Any] | None
    outputs: Count | None
    image_size: Count
    view: EvaluationView
    normalisation: Normalisation | None
    module: dict[str, Any] | None  # where embeddings and logits of the user's own module are read
    classes: Annotated[list[str], Field(min_length=1)]
    classifier: bool
    scorers: Annotated[list[ScorerEntry], Field(min_length=1)]
    tpr: Annotated[float, Field(gt=0, lt=1)]
    per_class: bool
    calibration: CalibrationEntry
    id_accuracy: Rate | None
    pretext: dict[str, Any] | None
    pretext_outputs: Count | None
    exact: bool
    packages: dict[str, str]  # those of the plugins, by name, with the version that made the detector
    versions: dict[str, str]
    recipe: dict[str, Any]
    files: dict[str, str]
    digest: str = ""


def text_of(manifest: Manifest) -> str:
    """Return the manifest as it is written, its digest set."""
    entries = asdict(replace(manifest, digest=""))
    return _text(entries | {"digest": hashlib.sha256(_text(entries).encode()).hexdigest()})


def _text(entries: Mapping[str, Any]) -> str:
    return json.dumps(entries, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_manifest(folder: Path, plugins: Plugins) -> Manifest:
    """Return the manifest of a saved detector; raise OODError if it was changed, or a package is missing."""
    path = folder / FILE
    try:
        require_plain_file(folder, FILE)
        if path.stat().st_size > MOST_BYTES:
            raise OODError(f"{path}: is larger than {MOST_BYTES} bytes")
        text = path.read_bytes().decode("utf-8")
        entries = json.loads(text)
        if isinstance(entries, dict) and entries.get("format") != FORMAT:
            raise OODError(
                f"{path}: is of format {entries.get('format')!r:.40}, this version reads {FORMAT}; "
                "make the detector again"
            )
        manifest = TypeAdapter(Manifest).validate_json(text, strict=True)
        changed = text_of(manifest) != text
    except FileNotFoundError:
        raise OODError(f"{folder}: no detector: there is no {FILE}") from None
    except OSError as error:
        raise OODError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # ValidationError is a ValueError
        reason = one_line(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise OODError(f"{path}: was changed or cut off since it was written: {reason}") from None
    _require_packages(path, manifest, plugins, "; the file was also changed since it was written" if changed else "")
    if changed:
        raise OODError(f"{path}: was changed since it was written: its digest is another one")
    _require_entries(path, manifest)
    return manifest


def require_plain_file(folder: Path, name: str) -> None:
    """Raise OODError for a file that is no regular one, which could be read for ever, or a link out of the folder.

    Raises:
        OSError: It is not there, or may not be seen.
    """
    path = folder / name
    if not stat.S_ISREG(path.stat().st_mode):
        raise OODError(f"{path}: is not a regular file")
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise OODError(f"{path}: links out of the folder of the detector; copy the file to its place")


def _require_entries(path: Path, manifest: Manifest) -> None:
    """Raise OODError with the first entry that does not fit the others."""
    for name in manifest.files:
        if name not in (WEIGHTS, CALIBRATION, WITNESS, EXAMPLES, PRETEXT) and not re.fullmatch(
            re.escape(SCORE).replace(r"\{\}", r"\d+"), name
        ):
            raise OODError(f"{path}: files: {name!r} is not the name of a file of a detector")
    for key, name in _files_read(manifest):
        if name not in manifest.files:
            raise OODError(f"{path}: {key}: there is no {name!r} among 'files'")
    if manifest.backbone is None and (manifest.module is None or manifest.normalisation is None):
        raise OODError(f"{path}: without a backbone it needs 'module' and 'normalisation'")


def _files_read(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the names of the files that are read, each with the entry that needs it."""
    yield from (("files", name) for name in (WEIGHTS, CALIBRATION, WITNESS))
    yield from ((f"scorers.{index}.file", of.file) for index, of in enumerate(manifest.scorers))
    if manifest.pretext is not None:
        yield "pretext", PRETEXT


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Raise OODError with the first file that is missing or changed, or no regular one of the folder."""
    for name, digest in manifest.files.items():
        path = folder / name
        try:
            require_plain_file(folder, name)
            found = content_digest(path)
        except OSError as error:
            raise OODError(f"{path}: cannot be read: {error.strerror}; the detector is not whole") from None
        if found != digest:
            raise OODError(
                f"{path}: was changed since it was written: its SHA-256 is {found[:12]}..., not {digest:.12}..."
            )


def packages_of(parts: list[Plugin], plugins: Plugins) -> dict[str, str]:
    """Return names and versions of the distributions of these plugins and of those among their options.

    Raises:
        OODError: One of them is of a class that no installed package registers.
    """
    names = sorted({plugins.package(plugin).distribution for part in parts for plugin in with_nested(part)})
    return {name: metadata.version(name) for name in names}


def versions() -> dict[str, str]:
    """Return the versions of Python, of the core and of the libraries."""
    return {"python": platform.python_version(), CORE: metadata.version(CORE)} | installed_versions(LIBRARIES)


def _require_packages(path: Path, manifest: Manifest, plugins: Plugins, remark: str) -> None:
    installed = {package.distribution for package in plugins.packages}
    for name, version in {CORE: manifest.versions.get(CORE, ""), **manifest.packages}.items():
        if not _NAME.fullmatch(name) or not _VERSION.fullmatch(version):  # which would be pasted into a shell
            raise OODError(f"{path}: packages: {name!r} {version!r} is not the name and version of a package{remark}")
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise OODError(
                f"{path}: needs the plugin package '{name}' {version}, which is not installed; "
                f"install it: pip install '{name}=={version}'{remark}"
            ) from None
        if _significant(found) != _significant(version):
            raise OODError(
                f"{path}: was made with {name} {version}, here is {found}, which may read it differently; "
                f"pip install '{name}~={version}', or make the detector again{remark}"
            )
        if name not in {*installed, CORE}:
            raise OODError(f"{path}: needs the plugin package '{name}', which is installed but disabled{remark}")


def _significant(version: str) -> list[int]:
    """Return a version up to its first number that is not 0: what semantic versions must share."""
    numbers = [int(number) for number in re.findall(r"\d+", version)[:3]]
    first = next((index for index, number in enumerate(numbers) if number), len(numbers))
    return numbers[: first + 1]
