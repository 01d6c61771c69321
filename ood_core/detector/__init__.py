"""Fitted detectors: saved and loaded without pickle, calibrated on held-out ID images, applied to new images.

    from ood_core.detector import Detector

| module | content |
|---|---|
| `detector` | `Detector`, the public class |
| `state` | its options, and all that it has learned, `DetectorState`, as values |
| `image_inputs` | paths, pictures, arrays, tensors, loaders to batches; decoded in threads, in constant memory |
| `image_progress` | the bar of a pass over images |
| `forward` | a batch through the network and all scorers: `ScoredBatch` |
| `predictions` | scores to decisions: `DecisionRule`, `Predictions` |
| `from_run` | the detector of a finished run |
| `from_module`, `wrapped_module` | the detector of a torch module and images; modules that are no plugins |
| `module_evidence`, `module_outputs` | which of a module's tensors are embeddings and logits; reading them |
| `labelled_data` | ID images with their labels, as numbers from 0 |
| `accuracy` | whether the network recognises the held-out images, and likely reasons if not |
| `bundle`, `manifest` | the folder on disk: written, read, verified |
"""

from __future__ import annotations

from ood_core.detector.detector import Detector
from ood_core.detector.predictions import Predictions

__all__ = ("Detector", "Predictions")
