"""Fitted detectors: saved and loaded without pickle, calibrated on held-out ID images, asked of new images.

    from ood_core.detector import Detector

| module | what it is |
|---|---|
| `detector` | `Detector`, which users have in their hands |
| `parts` | `Fitted`, all that a detector has learned, as values |
| `inputs` | whatever holds images, to batches; decoded in threads, in constant memory |
| `passage` | a batch through the network and all scorers: `Scored` |
| `exact` | linear layers whose rows do not depend on the size of the batch |
| `predictions` | from scores to decisions: a `Rule`, and `Predictions` |
| `build` | from a run that is done to its detector |
| `fitting`, `foreign` | from a network and images to a detector; modules of the user's own |
| `module_evidence`, `module_outputs` | which of a module's tensors are embeddings and logits; reading them |
| `labelled`, `labels` | ID images with their labels, whatever holds them; labels as numbers from 0 |
| `accuracy` | whether the network recognises the held-out images, and what would explain it if not |
| `bundle`, `manifest` | the folder on disk, and what is verified of it |
"""

from __future__ import annotations

from ood_core.detector.detector import Detector
from ood_core.detector.predictions import Predictions

__all__ = ("Detector", "Predictions")
