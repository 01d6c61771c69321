"""The page in a browser, and what is in it."""

import re
from dataclasses import replace

import pytest

from ood_core.errors import OODError
from ood_core.report.content.combinations import combinations
from ood_core.report.figures import class_tables, scatter, training_curves
from ood_core.report.formats import markdown, page

PHONE = {"width": 360, "height": 800}


@pytest.fixture(scope="module")
def written(synthetic, tmp_path_factory):
    """ReportData of two variants, two cases and two scorers, and their page."""
    folder = tmp_path_factory.mktemp("page")
    findings = synthetic(folder, variants=2, scorers=2, cases=2, images=60)
    (folder / "report.html").write_text(page.render(findings, folder), encoding="utf-8")
    return findings, folder / "report.html"


@pytest.fixture
def opened(browser, written):
    """The opened page; every message, error and request is on its list."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.heard = []
    tab.on("console", lambda message: tab.heard.append(message.text))
    tab.on("pageerror", lambda error: tab.heard.append(str(error)))
    tab.on("request", lambda request: tab.heard.append(request.url))
    tab.set_default_timeout(5000)
    tab.goto(written[1].as_uri())
    yield tab
    context.close()


def column(tab, title):
    """The texts below a heading of the table of all rates, of the lines that are shown."""
    found = tab.locator("#results table").last
    headings = [text.strip() for text in found.locator("th").all_inner_texts()]
    cells = found.locator(f"tbody tr:not([hidden]) td:nth-child({headings.index(title) + 1})")
    return [text.strip() for text in cells.all_inner_texts()]


def header(tab, title):
    return tab.locator("#results table").last.get_by_role("columnheader", name=title, exact=True)


def test_it_opens_without_a_message_and_asks_for_nothing_but_itself(opened, written):
    opened.get_by_role("button", name="open all").first.click()
    opened.wait_for_timeout(200)
    assert [heard for heard in opened.heard if not heard.startswith("data:")] == [written[1].as_uri()]


def test_a_click_on_a_heading_sorts_by_its_numbers_and_another_one_the_other_way_round(opened):
    header(opened, "AUROC").get_by_role("button").click()
    values = [float(text.rstrip("*†")) for text in column(opened, "AUROC")]
    assert values == sorted(values, reverse=True)
    assert header(opened, "AUROC").get_attribute("aria-sort") == "descending"
    header(opened, "AUROC").get_by_role("button").click()
    assert [float(text.rstrip("*†")) for text in column(opened, "AUROC")] == sorted(values)
    assert header(opened, "AUROC").get_attribute("aria-sort") == "ascending"
    assert header(opened, "FPR@95").get_attribute("aria-sort") == "none"


def test_the_keyboard_sorts_as_well(opened):
    header(opened, "scorer").get_by_role("button").focus()
    opened.keyboard.press("Enter")
    assert column(opened, "scorer") == sorted(column(opened, "scorer"))
    opened.keyboard.press("Space")
    assert column(opened, "scorer") == sorted(column(opened, "scorer"), reverse=True)
    assert header(opened, "scorer").get_attribute("aria-sort") == "descending"


def test_words_and_choices_filter_the_lines_together(opened):
    tools = opened.locator("#results .tools").last
    everything = len(column(opened, "scorer"))
    tools.get_by_role("combobox", name="scorer").select_option("scorer1")
    assert set(column(opened, "scorer")) == {"scorer1"}
    tools.get_by_role("combobox", name="variant").select_option("variant 1")
    tools.get_by_role("searchbox").fill(" NEAR  scorer1")
    assert (column(opened, "case"), column(opened, "OOD set")) == (["case 0", "case 1"], ["set 0", "set 0"])
    tools.get_by_role("combobox", name="case").select_option("case 0")
    assert (column(opened, "case"), column(opened, "variant")) == (["case 0"], ["variant 1"])
    assert tools.get_by_role("status").inner_text() == f"1 of {everything} lines"


def test_every_figure_is_there_and_says_what_it_shows(opened, written):
    findings, _ = written
    names = [figure.get_attribute("aria-label") for figure in opened.locator("svg[role=img]").all()]
    expected = 4 * len(combinations(findings.rows)) + len(findings.maps) + 2 * 2
    assert training_curves.count(findings.stages) == 4, "two tasks of two variants: two panels of two metrics"
    assert len(names) == expected
    assert all(re.search(r"\d", name) for name in names)
    opened.locator("#figures").get_by_role("button", name="open all").click()
    shown = opened.locator("#figures").get_by_role("img").all()
    assert len(shown) == 4 * len(combinations(findings.rows))
    assert all(figure.bounding_box()["width"] > 200 for figure in shown)


def test_every_image_of_the_gallery_can_be_seen_and_has_an_alternative_text(opened, written):
    images = opened.locator("img")
    pictures = [shown for strip in written[0].gallery for shown in strip.images]
    assert images.count() == len(pictures) + 1
    assert all(opened.evaluate("[...document.images].map(image => image.complete && image.naturalWidth > 0)"))
    assert all(opened.evaluate("[...document.images].map(image => image.alt.length > 3)"))


def test_a_group_can_be_narrowed_to_a_scorer_and_opens_what_is_left(opened):
    figures = opened.locator("#figures")
    figures.get_by_role("combobox", name="scorer").select_option("scorer1")
    figures.get_by_role("combobox", name="variant").select_option("variant 1")
    shown = figures.locator("details:visible")
    assert shown.count() == 2
    assert shown.first.get_attribute("open") is not None


def test_everything_that_is_closed_is_printed(opened):
    opened.emulate_media(media="print")
    closed = opened.locator("#figures details:not([open]) svg[role=img]")
    assert closed.count() > 0
    assert all(box["height"] > 50 for box in [figure.bounding_box() for figure in closed.all()])
    assert not opened.locator("nav").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_differs_enough_from_the_paper(opened, scheme):
    opened.emulate_media(color_scheme=scheme)
    colours = opened.evaluate(
        """() => ["body", ".note", ".aside", "nav a", ".failures strong", "caption"].map(selector => {
            const colour = getComputedStyle(document.querySelector(selector)).color;
            return [colour, getComputedStyle(document.body).backgroundColor];
        })"""
    )
    assert min(contrast(*pair) for pair in colours) >= 4.5


def contrast(*colours):
    """The ratio of WCAG 2."""
    first, second = sorted((luminance(colour) for colour in colours), reverse=True)
    return (first + 0.05) / (second + 0.05)


def luminance(colour):
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_phone_does_not_scroll_sideways(browser, written):
    context = browser.new_context(viewport=PHONE)
    tab = context.new_page()
    tab.goto(written[1].as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(item => { item.open = true; })")
    assert tab.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert tab.evaluate("[...document.querySelectorAll('section')].every(part => part.scrollWidth <= innerWidth)")
    texts = "[...document.querySelectorAll('caption, figcaption, h2, h3, summary, p, main li')]"
    right = "[...text.childNodes].map(node => { const range = document.createRange(); range.selectNode(node); "
    right += "return range.getBoundingClientRect().right; })"
    assert tab.evaluate(f"{texts}.flatMap(text => {right}).every(right => right <= innerWidth)"), "a text is cut off"
    context.close()


def test_the_page_says_what_was_run_and_what_failed(written):
    text = written[1].read_text(encoding="utf-8")
    assert "the loss is nan at step 3" in text
    assert "A note with &lt;angle&gt; brackets &amp; an ampersand" in text
    assert re.search(r"trained \d+, extracted \d+, reused \d+ · 12.3 s · 2026-01-02 03:04:05 UTC", text)
    assert "&#34;epochs&#34;: 60" in text
    assert "000000000000000000000001" in text, "the keys of the stages"


def test_names_with_markup_stay_text(synthetic, tmp_path):
    findings = synthetic(tmp_path, scorers=1, sets=1, images=20, galleries=0)
    evil = '"><script>alert(1)</script>$x$'
    rows = tuple(replace(row, scorer=evil, ood_set=evil) for row in findings.rows)
    text = page.render(replace(findings, rows=rows), tmp_path)
    assert "<script>alert" not in text
    assert text.count("<script>") == 1


def test_findings_without_anything_optional_make_a_page(synthetic, tmp_path):
    findings = synthetic(tmp_path, scorers=1, sets=1, images=20)
    bare = replace(
        findings, notes=(), failures=(), stages=(), accepted=(), classes=(), pictures=(), gallery=(), maps=()
    )
    text = page.render(bare, tmp_path)
    assert 'id="notes"' not in text
    assert "All rates" in text
    nothing = replace(bare, rows=(), scores=(), resolved={}, versions={}, machine={})
    assert "synthetic" in page.render(nothing, tmp_path), "every stage failed"


def test_a_picture_that_is_gone_is_named(synthetic, tmp_path):
    findings = synthetic(tmp_path, scorers=1, images=20, galleries=0)
    (tmp_path / findings.pictures[0].file).unlink()
    with pytest.raises(OODError, match=r"reconstructions\.png, a picture of the report, cannot be read: No such file"):
        page.render(findings, tmp_path)


def test_the_same_findings_make_the_same_page(synthetic, tmp_path):
    findings = synthetic(tmp_path, scorers=1, images=40)
    assert page.render(findings, tmp_path) == page.render(findings, tmp_path)


@pytest.mark.slow
def test_the_page_of_an_ablation_of_twelve_variants_is_below_three_megabytes(synthetic, tmp_path):
    findings = synthetic(tmp_path, variants=12, scorers=3, sets=3, images=1000, classes=10, galleries=15, side=64)
    text = page.render(findings, tmp_path)
    assert len(text.encode()) < 3_000_000
    assert text.count("Score densities, ") == 72, "and shows all of it"


def test_a_picture_has_a_legend_in_page_and_markdown(synthetic, tmp_path):
    findings = synthetic(tmp_path)
    legend = "reconstructions (train mim, seed 0): from top to bottom: images; their tokens"
    assert f"<figcaption>{legend}</figcaption>" in page.render(findings, tmp_path)
    assert f"\n{legend}\n" in markdown.render(findings)


def test_what_is_cut_says_so_with_the_file_that_has_all(synthetic, tmp_path, monkeypatch):
    for owner, most in ((page, {"LINES": 3, "STAGES": 2}), (class_tables, {"LINES": 4, "COLUMNS": 1})):
        for name, number in most.items():
            monkeypatch.setattr(owner, name, number)
    monkeypatch.setattr(scatter, "_MOST", 5)
    findings = synthetic(tmp_path, sets=3, images=30)
    text = re.sub(r"<.*?>", "", page.render(findings, tmp_path))
    for words in (
        "3 of 8 lines are shown; report.csv has the numbers of all.",
        "12 of 18 pairs are shown, the most frequent; accepted.csv has all",
        "4 of 9 OOD classes are shown, the hardest; classes.csv has all.",
        "1 of 3 ID classes for which images are taken have a column; accepted.csv has all.",
        "2 of 11 stages are shown; report.json has all.",
        "5 images of 30",
        "At most 8 images of an end;",
    ):
        assert words in text, words
    text = markdown.render(findings)
    assert "12 of 18 pairs are shown, the most frequent; accepted.csv has all.\n\n| variant" in text
    assert "Below, 5 of 11 stages have a line each, those of training, extraction and fitting; report.json has" in text


def test_what_is_whole_does_not_speak_of_a_part(synthetic, tmp_path):
    findings = synthetic(tmp_path, scorers=1, sets=2, images=30)
    for text in (page.render(findings, tmp_path), markdown.render(findings)):
        assert not re.search(r"(lines|pairs|classes) are shown|have a column", text)
