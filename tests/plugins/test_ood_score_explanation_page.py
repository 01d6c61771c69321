"""The page of `ood score --explain`, in a browser and as text."""

import base64
import io
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ood_core.detector.predictions import decision_rule
from ood_score import explanation_page, predict_files
from ood_score.rows import Columns, ScoreCounts

EVIL = "<script>alert(1)<.png"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, brightest in (("dark.png", 40), (EVIL, 120), ("light.png", 250), ("gone.png", 200)):
        Image.fromarray(random.integers(0, brightest, (20, 30, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def corner(images):
    """Errors of a task of 2 x 2 patches that cannot guess the first one of bright images."""
    found = torch.zeros(len(images), 2, 2)
    found[:, 0, 0] = images.mean((1, 2, 3))
    return found


@pytest.fixture(scope="module")
def request_(tiny_detector):
    """What is wanted, of a detector with a task that guesses patches."""
    state = replace(tiny_detector.state, trained_task=SimpleNamespace(patch_errors=corner))
    return predict_files.Request(state, decision_rule(state), Columns(), 2)


@pytest.fixture(scope="module")
def page(request_, photos, tmp_path_factory):
    """The page of these images, one of which has vanished since it was scored; and its rows."""
    counts = ScoreCounts()
    for rows in predict_files.predict_files(request_, map(str, sorted(photos.iterdir()))):
        counts.add(rows)
    (photos / "gone.png").unlink()
    file = tmp_path_factory.mktemp("page") / "deeper" / "explained.html"
    explanation_page.write(file, request_, counts)
    return file, counts


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_it_opens_asks_for_nothing_and_shows_every_picture(browser, page, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab, heard = context.new_page(), []
    tab.on("console", lambda message: heard.append(message.text))
    tab.on("pageerror", lambda error: heard.append(str(error)))
    tab.on("request", lambda asked: heard.append(asked.url))
    tab.goto(page[0].as_uri())
    assert [said for said in heard if not said.startswith("data:")] == [page[0].as_uri()]
    assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert tab.locator("img").count() == 3 * (1 + 2 + predict_files.NEAREST)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    headings = [text.split(maxsplit=1) for text in tab.locator("h2").all_inner_texts()]
    rows = page[1].most_ood()
    assert [(" ".join(heading)).replace(" ", "") for heading in headings] == [
        ("OOD" if row.is_ood else "ID") + row.file for row in rows
    ]
    overlay = tab.locator(".heat").first.bounding_box()
    assert overlay == tab.locator(".stack img").first.bounding_box(), "the map lies over the picture"
    context.close()


def test_the_most_ood_image_comes_first_and_what_could_not_be_scored_is_counted(page):
    text = page[0].read_text(encoding="utf-8")
    rows = page[1].most_ood()
    assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
    assert "Not shown, because they could not be scored: 1." in text
    assert "4 images" not in re.sub(r"<p>.*?</p>", "", text, count=1)
    assert f"{rows[0].score:.4g}" in text
    assert text.count("It could not be read again: ") == 1


def test_names_with_markup_stay_text(page):
    text = page[0].read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;.png" in text


def test_what_is_nearest_is_nearest_of_all_that_are_kept(request_, photos):
    row = next(
        predict_files.predict_files(replace(request_, columns=Columns(nearest=True)), [str(photos / "light.png")])
    )[0]
    one = explanation_page.explain(request_, [row])[0]
    examples = request_.state.examples
    shown = next(predict_files.iter_batches([predict_files.file_ref(row.file)], request_.state.preprocessing, 1)).images
    embedding = predict_files.score_images(request_.state, shown).embeddings[0].double()
    distances = (examples.embeddings.double() - embedding).norm(dim=1)
    places = distances.argsort()[: predict_files.NEAREST]
    assert [near.distance for near in one.neighbours] == pytest.approx(distances[places].tolist())
    assert [near.class_name for near in one.neighbours] == [
        request_.state.classes[label] for label in examples.labels[places]
    ]
    assert [(near.class_name, near.distance) for near in one.neighbours] == [
        (near.class_name, near.distance) for near in row.nearest
    ]
    assert base64.b64decode(one.neighbours[0].picture.split(",")[1]) == examples.pictures[int(places[0])]


def test_a_map_is_strong_where_a_patch_surprises_and_its_scale_is_that_of_the_page(page):
    text = page[0].read_text(encoding="utf-8")
    maps = re.findall(r'class="heat" src="data:image/png;base64,([^"]+)"', text)
    shades = [np.asarray(Image.open(io.BytesIO(base64.b64decode(found)))) for found in maps]
    assert [shade.shape for shade in shades] == [(2, 2, 4)] * 3
    for shade in shades:
        assert shade[0, 0, 3] > shade[0, 1, 3] == shade[1, 1, 3] == round(explanation_page.FAINTEST * 255)
    assert len({int(shade[0, 0, 3]) for shade in shades}) == 3, "brighter images have greater errors"


def test_a_detector_without_examples_and_maps_says_so(request_, photos):
    bare = replace(request_, state=replace(request_.state, examples=None, trained_task=None))
    rows = next(predict_files.predict_files(bare, [str(photos / "light.png")]))
    counts = ScoreCounts()
    counts.add(rows)
    text = explanation_page.render(bare, explanation_page.explain(bare, rows), counts)
    assert "The detector keeps no in-distribution images" in text
    assert "There are no maps of reconstruction errors" in text
    assert text.count("<img") == 1
    assert "Infinity" not in text


def test_a_page_is_bounded_and_says_what_it_leaves_out(request_, photos):
    counts = ScoreCounts(most=2)
    for rows in predict_files.predict_files(
        request_, [str(photos / name) for name in ("dark.png", "light.png", EVIL, "dark.png")]
    ):
        counts.add(rows)
    text = explanation_page.render(request_, explanation_page.explain(request_, counts.most_ood()), counts)
    assert "Here are the 2 images that are most OOD; 2 more were scored." in text
    assert text.count('<li class="image">') == 2


def test_the_command_writes_the_page_beside_its_rows(ood, photos, tiny_run, tmp_path):
    light = str(photos / "light.png")
    code, _, err = ood("score", tiny_run.detector, light, "--out", "rows.jsonl", "--explain")
    assert (code, err.splitlines()[-1]) == (0, "page: rows.html")
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert len(row["nearest"]) == predict_files.NEAREST
    assert set(row["nearest"][0]) == {"class", "distance"}
    first = (tmp_path / "rows.html").read_bytes()
    (tmp_path / "rows.html").unlink()
    ood("score", tiny_run.detector, light, "--out", "rows.jsonl", "--explain")
    assert (tmp_path / "rows.html").read_bytes() == first, "also of rows that were there before"
    ood("score", tiny_run.detector, light, "--explain-to", "pages")
    assert (tmp_path / "pages" / "explained.html").is_file()
