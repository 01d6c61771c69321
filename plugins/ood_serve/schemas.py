"""Schemas of queries and responses. Floats keep their bits in JSON."""

from __future__ import annotations

import base64

from pydantic import BaseModel, ConfigDict, Field

from ood_core.detector.predictions import Predictions
from ood_core.detector.state import DetectorState
from ood_serve.batching import BatchResult


class ScoreQuery(BaseModel):
    """The query of a request."""

    model_config = ConfigDict(extra="forbid")

    scorer: str | None = Field(None, description="The scorer that decides; default: the detector's first.")
    tpr: float | None = Field(
        None, description="Share of in-distribution images to accept, above 0 and below 1; default: the detector's."
    )
    per_class: bool | None = Field(
        None, description="Whether each predicted class has its own threshold; default: as in the detector."
    )
    nearest: int = Field(0, ge=0, le=100, description="How many of the nearest in-distribution images to return.")
    error_map: bool = Field(
        False, description="Whether to return the error of each predicted patch, if the detector can; takes longer."
    )


class Neighbour(BaseModel):
    """One of the nearest in-distribution training images."""

    class_name: str = Field(serialization_alias="class", description="Its class.")
    distance: float = Field(description="Euclidean, between embeddings.")
    picture: str = Field(description="A small picture, as a data URI.")


class Result(BaseModel):
    """The decision on an image, and its grounds."""

    name: str = Field(description="Name of the image in the request.")
    is_ood: bool = Field(description="Whether the score is above the threshold.")
    score: float = Field(description="Score of the deciding scorer; higher means more out-of-distribution.")
    threshold: float
    p_value: float = Field(
        description="An in-distribution image has one as small as this with at most this probability."
    )
    predicted: str | None = Field(description="The most probable in-distribution class; null without a classifier.")
    scores: dict[str, float] = Field(description="Scores of all scorers, by name.")
    nearest: list[Neighbour] = Field(default=[], description="The nearest first; only on request.")
    error_map: list[list[float]] = Field(
        default=[], description="Error of each patch predicted from the others, row by row; only on request."
    )


class Refused(BaseModel):
    """An image among several that could not be scored."""

    name: str = Field(description="Name of the image in the request.")
    error: str


class ScoreResponse(BaseModel):
    """Results for the images of a request, in their order."""

    results: list[Result | Refused]
    scorer: str = Field(description="The deciding scorer.")
    tpr: float = Field(description="Share of in-distribution images that is accepted.")
    detector: str = Field(description="Name of the detector.")
    error_scale: float = Field(
        default=0.0, description="99 % of the patches of in-distribution images have a smaller error; with error maps."
    )


class Error(BaseModel):
    """An error of the request."""

    error: str


class InternalError(Error):
    """An error of the service."""

    id: str = Field(description="Identifier of the error in the log.")


def make_result(state: DetectorState, name: str, found: Predictions, passed: BatchResult, nearest: int) -> Result:
    """Return the result of one image, with so many of the nearest training images."""
    made = Result(
        name=name,
        is_ood=bool(found.is_ood[0]),
        score=float(found.score[0]),
        threshold=float(found.threshold[0]),
        p_value=float(found.p_value[0]),
        predicted=found.class_name(0),
        scores={of: float(scores[0]) for of, scores in found.scores.items()},
    )
    if nearest:
        examples = state.examples
        assert examples is not None, "the query is refused if there are none"
        distances, rows = examples.nearest(passed.scored.embeddings, nearest)
        made.nearest = [
            Neighbour(
                class_name=state.classes[int(examples.labels[row])],
                distance=distance,
                picture="data:image/webp;base64," + base64.b64encode(examples.pictures[row]).decode(),
            )
            for distance, row in zip(distances[0].tolist(), rows[0].tolist(), strict=True)
        ]
    if passed.error_map is not None:
        made.error_map = passed.error_map.tolist()
    return made


def encode_response(answer: ScoreResponse) -> bytes:
    """Return the JSON, without the parts that were not requested."""
    return answer.model_dump_json(exclude_unset=True, by_alias=True).encode()
