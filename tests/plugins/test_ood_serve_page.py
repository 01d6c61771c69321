"""The service's page in a browser: an image is chosen, dropped or refused, and what is shown of it."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ood_core.detector import Detector
from ood_serve import page
from ood_serve.limits import Limits
from ood_serve.server import listen, make_server
from ood_serve.service import Service

PHONE = {"width": 360, "height": 780}

DROP = """async ([name, bytes]) => {
  const file = new File([new Uint8Array(bytes)], name, { type: "image/png" });
  const transfer = new DataTransfer();
  transfer.items.add(file);
  for (const kind of ["dragenter", "dragover", "drop"])
    document.getElementById("drop").dispatchEvent(
      new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


PIXEL = "[...document.querySelector('canvas').getContext('2d').getImageData(0, 0, 1, 1).data].slice(0, 3)"


@pytest.fixture(scope="module")
def service(tiny_detector):
    """The address of a service whose detector has an error map too."""
    mapping = SimpleNamespace(patch_errors=lambda images: images[:, 0, ::4, ::2])
    state = replace(tiny_detector.state, trained_task=mapping)
    with listen("127.0.0.1", 0) as listening:
        server = make_server(Service(state, Limits()))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "an <b>image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(file)
    return file


@pytest.fixture(scope="module")
def tab(browser):
    """A tab; every message, error and request is on its list."""
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    tab = context.new_page()
    tab.heard = []
    tab.on("console", lambda message: tab.heard.append(message.text))
    tab.on("pageerror", lambda error: tab.heard.append(str(error)))
    tab.on("request", lambda request: tab.heard.append(request.url))
    tab.set_default_timeout(8000)
    yield tab
    context.close()


@pytest.fixture
def opened(tab, service):
    """The page, opened anew."""
    tab.heard.clear()
    tab.goto(service)
    return tab


def shown(tab, name):
    return tab.locator(f"#{name}").inner_text()


def wait_for_answer(tab):
    tab.locator("#found:not([hidden]):not(.old)").wait_for()


def test_a_chosen_image_is_scored_and_everything_is_shown(opened, service, picture, tiny_detector):
    opened.locator("#file").set_input_files(picture)
    wait_for_answer(opened)
    found = tiny_detector.predict(picture)
    assert shown(opened, "decision") == ("out of distribution" if found.is_ood[0] else "in distribution")
    assert shown(opened, "score") == f"{found.score[0]:.6g}"
    assert shown(opened, "p_value") == f"{found.p_value[0]:.6g}"
    assert shown(opened, "threshold").startswith(f"{found.threshold[0]:.6g}, which accepts 95 %")
    assert shown(opened, "predicted") == found.class_name(0)
    assert shown(opened, "name") == "an <b>image.png"
    assert opened.locator("#scores tr").count() == 5
    assert opened.locator("#nearest img").count() == 6
    assert opened.evaluate("[...document.querySelectorAll('#nearest img, #preview')].every(i => i.naturalWidth > 0)")
    assert opened.locator("canvas").evaluate("of => [of.width, of.height]") == [4, 2]
    assert "map of 2 by 4 patches" in opened.locator("canvas").get_attribute("aria-label")
    elsewhere = [of for of in opened.heard if not of.startswith((service, "data:", "blob:" + service))]
    assert elsewhere == []


def test_the_same_error_has_the_same_colour_in_every_image(opened, tmp_path):
    seen = []
    for name, level in (("dark.png", 40), ("light.png", 120)):
        Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(tmp_path / name)
        opened.locator("#file").set_input_files(tmp_path / name)
        opened.get_by_text(name, exact=True).wait_for()
        wait_for_answer(opened)
        seen.append(opened.evaluate(PIXEL))
        told, error = shown(opened, "range"), f"{level / 255:.3g}"
        assert told.startswith("on one scale for all images: from 0 (dark) to ")
        assert told.endswith(f"here {error} to {error}")
    assert sum(seen[0]) + 50 < sum(seen[1])


def test_a_dropped_image_is_scored(opened, picture):
    opened.evaluate(DROP, ["dropped.png", list(picture.read_bytes())])
    wait_for_answer(opened)
    assert shown(opened, "name") == "dropped.png"
    assert "over" not in (opened.locator("#drop").get_attribute("class") or "")


def test_another_scorer_and_rate_ask_again(opened, picture, tiny_detector):
    opened.locator("#file").set_input_files(picture)
    wait_for_answer(opened)
    opened.locator("#scorer").select_option("energy")
    opened.locator("#tpr").fill("0.5")
    opened.locator("#tpr").blur()
    opened.get_by_text("which accepts 50 %").wait_for()
    expected = tiny_detector.predict(picture, scorer="energy", tpr=0.5)
    assert shown(opened, "score") == f"{expected.score[0]:.6g}"
    opened.locator("#mapped").uncheck()
    opened.locator("#map").wait_for(state="hidden")


def test_what_is_no_picture_is_told_in_words(opened, tmp_path):
    (tmp_path / "words.png").write_bytes(b"plain words")
    opened.locator("#file").set_input_files(tmp_path / "words.png")
    opened.locator("#status.wrong").wait_for()
    assert shown(opened, "status") == "words.png: not a picture in a known format"
    assert opened.locator("#found").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_follows_the_light(browser, service, picture, scheme):
    context = browser.new_context(viewport=PHONE, color_scheme=scheme, has_touch=True)
    tab = context.new_page()
    tab.goto(service)
    tab.locator("#file").set_input_files(picture)
    wait_for_answer(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    context.close()


def test_the_documentation_opens_without_another_host(opened, service):
    opened.heard.clear()
    opened.goto(service + "docs")
    opened.get_by_text("/score").first.wait_for()
    assert [of for of in opened.heard if not of.startswith((service, "data:"))] == []


def test_the_page_obeys_no_name(tiny_detector):
    state = tiny_detector.state
    text = page.render(replace(state, origin=replace(state.origin, name="\u202e<b>\x1b[31m")))
    assert "\\u202e&lt;b&gt;\\x1b[31m" in text
    assert not {"\u202e", "\x1b"} & set(text)


def test_a_detector_without_examples_has_a_page_too(tiny_detector):
    plain = Detector.from_state(replace(tiny_detector.state, examples=None)).state
    text = page.render(plain)
    assert 'data-nearest="0" data-mapped="false"' in text
    assert 'id="mapped"' not in text
