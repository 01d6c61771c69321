"""From scores to the JSON of an answer. Floats are written so that they are read with the same bits."""

from __future__ import annotations

import base64

from pydantic import BaseModel, ConfigDict, Field

from ood_core.detector.predictions import Predictions
from ood_core.detector.state import DetectorState
from ood_serve.batching import Passed


class Question(BaseModel):
    """What the query asks beside the image."""

    model_config = ConfigDict(extra="forbid")

    scorer: str | None = Field(
        default=None, description="Name of the scorer that decides; the detector's first unless given."
    )
    tpr: float | None = Field(
        default=None,
        description="Share of in-distribution images to accept, above 0 and below 1; the detector's unless given.",
    )
    per_class: bool | None = Field(
        None,
        description="Whether each predicted class has its own threshold; as the detector has it unless given.",
    )
    nearest: int = Field(
        default=0, ge=0, le=100, description="How many of the nearest in-distribution images to return."
    )
    error_map: bool = Field(
        default=False,
        description="Whether to return how badly each patch is guessed, of a detector that can; takes longer.",
    )


class Neighbour(BaseModel):
    """An in-distribution training image that is near."""

    class_name: str = Field(serialization_alias="class", description="Its class.")
    distance: float = Field(description="Euclidean, between embeddings.")
    picture: str = Field(description="A small picture, as a data URI.")


class Result(BaseModel):
    """The decision on an image, and what it rests on."""

    name: str = Field(description="What the client calls the image.")
    is_ood: bool = Field(description="Whether the score is above the threshold.")
    score: float = Field(description="Of the scorer that decides; higher means more out-of-distribution.")
    threshold: float
    p_value: float = Field(
        description="An in-distribution image has one as small as this with at most this probability."
    )
    predicted: str | None = Field(description="The most probable in-distribution class; null without a classifier.")
    scores: dict[str, float] = Field(description="Of all scorers, by name.")
    nearest: list[Neighbour] = Field(default=[], description="The nearest first; only if the query asks for them.")
    error_map: list[list[float]] = Field(
        default=[],
        description="How badly each patch is guessed from the others, row by row; only if the query asks for it.",
    )


class Refused(BaseModel):
    """An image among several that could not be scored."""

    name: str = Field(description="What the client calls the image.")
    error: str


class Answer(BaseModel):
    """What is said of the images of a request, in their order."""

    results: list[Result | Refused]
    scorer: str = Field(description="The one that decides.")
    tpr: float = Field(description="Share of in-distribution images that is accepted.")
    detector: str = Field(description="Its name.")
    error_scale: float = Field(
        default=0.0,
        description="99 % of the patches of in-distribution images are guessed better than this; beside error maps.",
    )


class Error(BaseModel):
    """What was wrong."""

    error: str


class InternalError(Error):
    """Something on our side."""

    id: str = Field(description="By which the log knows it.")


def result(state: DetectorState, name: str, found: Predictions, passed: Passed, nearest: int) -> Result:
    """Return what is said of one image.

    Args:
        state: The detector's.
        name: What the client calls the image.
        found: The decision on it alone.
        passed: What came of it.
        nearest: How many of the nearest examples are wanted.
    """
    said = Result(
        name=name,
        is_ood=bool(found.is_ood[0]),
        score=float(found.score[0]),
        threshold=float(found.threshold[0]),
        p_value=float(found.p_value[0]),
        predicted=found.class_name(0),
        scores={of: float(scores[0]) for of, scores in found.scores.items()},
    )
    if nearest:
        said.nearest = _neighbours(state, passed, nearest)
    if passed.error_map is not None:
        said.error_map = passed.error_map.tolist()
    return said


def encoded(answer: Answer) -> bytes:
    """Return the JSON, without what was not asked for."""
    return answer.model_dump_json(exclude_unset=True, by_alias=True).encode()


def _neighbours(state: DetectorState, passed: Passed, count: int) -> list[Neighbour]:
    examples = state.examples
    assert examples is not None, "the question is refused where there are none"
    distances, rows = examples.nearest(passed.scored.embeddings, count)
    return [
        Neighbour(
            class_name=state.classes[int(examples.labels[row])],
            distance=distance,
            picture="data:image/webp;base64," + base64.b64encode(examples.pictures[row]).decode(),
        )
        for distance, row in zip(distances[0].tolist(), rows[0].tolist(), strict=True)
    ]
