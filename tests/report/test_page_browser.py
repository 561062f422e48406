"""The page in a real browser: opened from disk, read, filtered, driven by keys, printed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anomia.report.page.build import Report, write_report
from tests.report.synthetic import write_run

Open = Callable[..., Any]
ARMS = ("wanda:0.5", "sparsegpt:0.5")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("report")
    run = write_run(folder / "run", languages=("arabic", "english", "thai"), items=30, arms=ARMS)
    return write_report([run], folder / "out", formats=())


def shown(page: Any) -> int:
    return int(re.match(r"([\d,]+) of", page.locator("#explorer .status").inner_text())[1].replace(",", ""))


def rows_become(page: Any, wanted: Callable[[int], bool]) -> int:
    for _ in range(50):
        if wanted(shown(page)):
            break
        page.wait_for_timeout(50)
    assert wanted(shown(page)), shown(page)
    return shown(page)


def test_it_opens_from_disk_without_a_word_and_without_a_network(report: Report, open_page: Open) -> None:
    page = open_page(report.page, figures=True)
    assert page.heard == []
    assert page.locator("h1").inner_text().startswith("What 2 compressions took from some/model")
    assert page.locator(".verdict").count() == len(ARMS)
    sections = page.locator("#sections a").all_inner_texts()
    assert sections[:5] == ["Verdict", "Compared", "Fates", "Noise", "Ladder"]
    assert sections[-3:] == ["Items", "Limits", "Cite, repeat"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_is_drawn_under_the_strict_policy(report: Report, open_page: Open, scheme: str) -> None:
    page = open_page(report.page, figures=True, scheme=scheme)
    figures = page.locator("figure")
    assert figures.count() >= 6
    assert page.locator("figure .message").count() == 0
    for number in range(figures.count()):
        figure = figures.nth(number)
        assert figure.locator("svg path, svg rect, svg text").count() > 5
        assert len(figure.locator("svg[role=img]").get_attribute("aria-label")) > 20
        assert figure.locator("details table tbody tr").count() > 0
    policy = page.locator('meta[http-equiv="Content-Security-Policy"]').get_attribute("content")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "connect-src" not in policy
    assert page.heard == []


def test_the_theme_follows_the_system_until_it_is_chosen(report: Report, open_page: Open) -> None:
    page = open_page(report.page, figures=True, scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.locator("#theme").click()
    page.wait_for_selector("figure:first-of-type .plot[data-drawn=light]")
    assert page.evaluate(ground) != dark
    page.reload()
    page.wait_for_selector("html[data-theme=light]")


def test_filters(report: Report, open_page: Open) -> None:
    page = open_page(report.page)
    assert shown(page) == 90
    chips = page.locator(".fates button")
    counts = [int(text) for text in page.locator(".fates .count").all_inner_texts()]
    assert sum(counts) == 90
    chips.nth(1).click()
    rows_become(page, lambda n: n == counts[1])
    assert set(page.locator(".entry .fate").all_inner_texts()) == {"picked, no longer answered"}
    chips.nth(1).click()
    page.locator("#explorer").get_by_label("Language").select_option(label="thai")
    rows_become(page, lambda n: n == 30)
    page.locator("#explorer").get_by_label("rank from").fill("2")
    failed = rows_become(page, lambda n: 0 < n < 30)
    page.locator("#explorer").get_by_label("rank from").fill("")
    rows_become(page, lambda n: n == 30)
    page.locator(".probe-details summary").click()
    page.locator(".probe-filters label", has_text=re.compile("^free-form answer(?!,)")).locator(
        "select"
    ).select_option(label="base right, compressed wrong")
    fallen = rows_become(page, lambda n: n < 30)
    assert 0 < fallen <= failed
    page.locator("#explorer").get_by_label("Search").fill("thai-0007")
    rows_become(page, lambda n: n <= 1)
    page.locator("#explorer").get_by_label("Search").fill("nothing has these words")
    rows_become(page, lambda n: n == 0)
    assert page.get_by_text("No matches").is_visible()


def test_an_item_shows_all_that_was_asked_and_answered(report: Report, open_page: Open) -> None:
    page = open_page(report.page)
    page.locator(".fates button").first.click()
    page.locator(".entry").first.click()
    item = page.locator(".item")
    item.locator("h3").wait_for()
    gold = item.locator(".answers mark").first.inner_text()
    for part in ("Asked openly", "Passage", "Picking the answer", "Most likely next tokens"):
        assert item.get_by_role("heading", name=part).is_visible()
    assert item.locator(".passage mark").first.inner_text() == gold
    assert item.locator(".side .output mark").first.inner_text() == gold
    item.get_by_text("The prompt as sent").click()
    prompt = item.locator("details .passage").inner_text()
    assert prompt.startswith("Context: ")
    assert prompt.rstrip().endswith("Answer in a few words:")
    item.get_by_label("which prompt").select_option(label="cued, no gold")
    without = item.locator("details .passage").inner_text()
    assert "Options:\n- " in without
    assert without.count("\n- ") == 3
    assert f"- {gold}\n" not in without
    item.get_by_text("Samples", exact=True).click()
    assert item.locator("details[open] .many li").count() == 20
    shares = [int(text.split()[0]) for text in item.locator(".bars").first.locator("td:nth-child(2) span").all_inner_texts()]  # fmt: skip
    assert 98 <= sum(shares) <= 102


def test_another_like_it_has_the_same_fate_and_language(report: Report, open_page: Open) -> None:
    page = open_page(report.page)
    page.locator(".fates button").nth(1).click()
    rows_become(page, lambda n: 3 < n < 90)
    page.locator(".entry").first.click()
    page.locator(".item .bar .fate", has_text="picked").wait_for()
    before = page.locator(".item .where").inner_text()
    fate = page.locator(".item .bar .fate").inner_text()
    page.get_by_role("button", name="Another like it").click()
    page.locator(".item .where", has_not_text=before).wait_for()
    after = page.locator(".item .where").inner_text()
    assert after != before
    assert after.split(" · ")[0] == before.split(" · ")[0]
    assert page.locator(".item .bar .fate").inner_text() == fate


def test_an_address_leads_back_to_its_item(report: Report, open_page: Open) -> None:
    page = open_page(f"{report.page.resolve().as_uri()}#item=0/sparsegpt%3A0.5/thai/thai-0012")
    page.locator(".item .where", has_text="thai · thai-0012").wait_for()
    assert page.locator(".entry[aria-selected=true]").count() == 1
    assert "sparsegpt:0.5" in page.locator(".item .who").nth(1).inner_text()
    page.locator("#verdict button.link").first.click()
    page.wait_for_timeout(300)
    assert "#item=0/" in page.url


def test_arabic_stands_right_to_left_and_is_called_arabic(report: Report, open_page: Open) -> None:
    page = open_page(report.page)
    page.locator("#explorer").get_by_label("Language").select_option(label="arabic")
    rows_become(page, lambda n: n == 30)
    page.locator(".entry").first.click()
    page.locator(".item .where", has_text="arabic").wait_for()
    passage = page.locator(".item .passage").first
    assert passage.get_attribute("lang") == "ar"
    edges = passage.evaluate(
        """node => {
            const range = document.createRange();
            const first = document.createTreeWalker(node, NodeFilter.SHOW_TEXT).nextNode();
            range.setStart(first, 0);
            range.setEnd(first, 1);
            return [range.getBoundingClientRect().right, node.getBoundingClientRect().right];
        }"""
    )
    assert edges[1] - edges[0] < 40
    assert page.locator(".item h3").evaluate("node => getComputedStyle(node).unicodeBidi") == "plaintext"
    line = page.locator(".entry .question").first
    assert line.get_attribute("lang") == "ar"
    # What has no room in the list is cut at its end, which is on the left.
    assert line.evaluate("node => node.matches(':dir(rtl)')")


def test_the_whole_way_by_keyboard(report: Report, open_page: Open) -> None:
    page = open_page(report.page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert ring == "solid"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("english-000")
    rows_become(page, lambda n: n == 10)
    page.keyboard.press("Escape")
    rows_become(page, lambda n: n == 90)
    page.keyboard.press("Escape")
    where = page.locator(".item .where")
    for key, number in (("j", 1), ("j", 2), ("k", 1)):
        page.keyboard.press(key)
        page.locator(".item .where", has_text=f"arabic-{number:04d}").wait_for()
    page.locator(".list").focus()
    page.keyboard.press("End")
    page.locator(".item .where", has_text="thai-0029").wait_for()
    page.keyboard.press("Home")
    page.locator(".item .where", has_text="arabic-0000").wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("Choose an item from the list").wait_for()
    assert where.count() == 0


@pytest.mark.parametrize(("width", "scheme"), list(itertools.product([400, 1400], ["light", "dark"])))
def test_nothing_runs_over_the_edge(report: Report, open_page: Open, width: int, scheme: str) -> None:
    page = open_page(report.page, width=width, scheme=scheme, figures=True)
    page.locator(".entry").first.click()
    for summary in page.locator("main details:not([open]) > summary").all():
        if summary.is_visible():
            summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [400, 1200])
def test_tables_of_a_verdict_fit_or_scroll(report: Report, open_page: Open, width: int) -> None:
    page = open_page(report.page, width=width)
    for summary in page.locator(".verdict details > summary").all():
        summary.click()
    fits = """node => { const place = node.closest('.verdict > div').getBoundingClientRect(), own = node.getBoundingClientRect();
        const table = node.querySelector('table').getBoundingClientRect();
        return [own.right <= place.right + 1, table.width <= own.width + 1, getComputedStyle(node).overflowX]; }"""
    tables = page.locator(".verdict .scroll")
    assert tables.count() == len(ARMS)
    for table in tables.all():
        # No outcome is out of sight, and a longer one could be scrolled to.
        assert table.evaluate(fits) == [True, True, "auto"]
    texts = page.locator(".verdict .texts").first
    assert texts.locator("dt").all_inner_texts() == ["arabic", "english", "thai"]
    assert all(len(text) > 80 for text in texts.locator("dd").all_inner_texts())
    link = page.locator(".verdict button.link").first.inner_text()
    assert re.fullmatch(
        r"See what it still picks among standard options but no longer answers \(\d+ items, all languages\)",
        link,
    )
    page.locator(".verdict button.link").first.click()
    rows_become(page, lambda n: n == int(re.search(r"\d+", link)[0]))


def test_figures_give_way_to_a_narrow_page_and_come_back(report: Report, open_page: Open) -> None:
    drawn = """() => [...document.querySelectorAll('figure .plot')].map((plot) =>
        [Number(plot.querySelector('svg').getAttribute('width')), plot.clientWidth])"""
    page = open_page(report.page, width=400, figures=True)
    for width, room in page.evaluate(drawn):
        # What is still wider is made smaller as a picture, words and all: never by more than a sixth.
        assert width <= 1.2 * room
    page.set_viewport_size({"width": 1400, "height": 900})
    page.wait_for_timeout(1000)
    assert all(width > 540 for width, _ in page.evaluate(drawn))


def test_headings_landmarks_and_names(report: Report, open_page: Open) -> None:
    page = open_page(report.page, figures=True)
    levels = [int(tag[1]) for tag in page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].filter(h => h.checkVisibility()).map(h => h.tagName)")]  # fmt: skip
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for landmark in ("header", "nav", "main", "footer"):
        assert page.locator(landmark).count() == 1
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, a[href], input, select')].filter(node => node.checkVisibility()
            && !node.textContent.trim() && !node.getAttribute('aria-label') && !node.labels?.length)
            .map(node => node.outerHTML.slice(0, 100))"""
    )
    assert nameless == []


def test_it_prints_as_a_document(report: Report, open_page: Open, tmp_path: Path) -> None:
    page = open_page(report.page, figures=True, scheme="dark")
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert 4 <= pages <= 40
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")  # fmt: skip
    assert not page.locator(".top").is_visible()
    assert not page.locator("#items").is_visible()
    assert page.locator("figure svg text").first.evaluate("node => getComputedStyle(node).fill") == "rgb(34, 34, 34)"  # fmt: skip
