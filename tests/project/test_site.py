"""The static site: pages, links, pictures and equations, as files and in a browser."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from site_pages import CHROMIUM, WITHOUT, Page, chromium, served

import qdiff_lib
from tools.expansion import ASSIGNMENTS, ROOT
from tools.site import build

pytestmark = pytest.mark.slow
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
HEIGHTS = "items => items.map(item => item.getBoundingClientRect().height)"
SERIOUS = ("serious", "critical")
DARK = ("index.html", "notebooks/00_start_here.html", "api.html")  # the colours of all pages
KINDS = (  # a page of each kind
    "index.html README.ko.html RESULTS.html api.html exercises.html genindex.html search.html "
    "docs/notation.html notebooks/index.html notebooks/00_start_here.html"
).split()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of the site, built once. A warning of Sphinx is an error."""
    out = tmp_path_factory.mktemp("site") / "site"
    build(out)
    return out


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    files = (path for path in site.rglob("*.html") if "_static" not in path.parts)
    return {path: Page(path) for path in sorted(files)}


def test_every_page_of_the_repository_is_on_the_site(site, pages):
    assert set(LESSONS) and {site / f"notebooks/{path.stem}.html" for path in LESSONS} <= set(pages)
    names = ["index", "exercises", "api", "RESULTS", "CONTRIBUTING", "README.ko", "notebooks/index"]
    names += [f"docs/{path.stem}" for path in (ROOT / "docs").glob("*.md")]
    assert {site / f"{name}.html" for name in names} <= set(pages)


def test_every_page_has_a_title_a_language_and_one_main_heading(site, pages):
    for path, page in pages.items():
        assert page.all("html")[0]["lang"] == ("ko" if path.stem == "README.ko" else "en"), path
        assert re.search(r"<title>\s*\S", page.text) and page.all("meta"), path
        assert path.name == "search.html" or len(page.all("h1")) == 1, path


def test_links_lead_to_pages_and_places_that_exist(site, pages):
    seen = 0
    for path, page in pages.items():
        for target in (link["href"] for link in page.all("a") if link.get("href")):
            address = urlsplit(target)
            if address.scheme:
                continue
            goal = (path.parent / unquote(address.path)).resolve() if address.path else path
            assert goal.exists(), f"{path.name}: {target}"
            anchor = unquote(address.fragment)
            assert not anchor or goal not in pages or anchor in pages[goal].ids, f"{path.name}: {target}"
            seen += 1
    assert seen > 500


def test_pages_load_nothing_from_elsewhere(pages):
    for path, page in pages.items():
        loaded = [item.get("src") for tag in ("script", "img", "iframe", "source") for item in page.all(tag)]
        loaded += [link["href"] for link in page.all("link") if "stylesheet" in link.get("rel", "")]
        assert not [address for address in loaded if address and urlsplit(address).netloc], path


def test_every_picture_has_an_alt_text(pages):
    for path, page in pages.items():
        assert all(picture.get("alt", "").strip() for picture in page.all("img")), path


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_has_its_outputs_figures_and_equations(lesson, site, pages):
    page = pages[site / f"notebooks/{lesson.stem}.html"]
    cells = nbformat.read(lesson, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    figures = [
        output.metadata["image/png"]["alt"] for output in outputs if "image/png" in output.get("data", {})
    ]
    assert figures and [picture["alt"] for picture in page.all("img")] == figures
    for claim in (line for out in outputs for line in out.get("text", "").splitlines() if "✓" in line):
        assert re.sub(r"\W", "", claim) in re.sub(r"<[^>]+>|&\w+;|&#\w+;|\W", "", page.text), claim
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert page.text.count('display="block"') == len(re.findall(r"\$\$.+?\$\$", prose, re.DOTALL))
    assert "merror" not in page.text and not re.search(
        r"\$\$|\\frac|\\text", "".join(outside_of_code(page.text))
    )


def outside_of_code(text: str) -> list[str]:
    """The parts of a page that are neither code nor outputs."""
    return re.split(r"<pre>.*?</pre>|<code.*?</code>", text, flags=re.DOTALL)


def test_plumbing_is_folded_and_exercises_are_not(site, pages):
    for lesson in LESSONS:
        cells = nbformat.read(lesson, as_version=4).cells
        text = pages[site / f"notebooks/{lesson.stem}.html"].text
        folded = re.findall(r'<details class="admonition hide above-input">.*?</details>', text, re.DOTALL)
        assert any("subprocess" in part or "importlib" in part for part in folded), lesson
        exercises = sum("exercise" in cell.metadata.get("tags", []) for cell in cells)
        assert not any("your turn" in part for part in folded) and text.count("your turn") >= exercises
        assert exercises > 1 or lesson.stem in ASSIGNMENTS, lesson
        assert len(folded) >= 1 + sum("hints" in cell.metadata.get("tags", []) for cell in cells)


def test_exercises_and_public_names_are_listed(site, pages):
    listed = pages[site / "exercises.html"].text
    for path in LESSONS:
        for cell in nbformat.read(path, as_version=4).cells:
            if name := cell.metadata.get("exercise"):
                assert f">{name.partition('.')[2]}<" in listed
    described = {
        name.rpartition(".")[2] for name in pages[site / "api.html"].ids if name.startswith("qdiff_lib.")
    }
    assert set(qdiff_lib.__all__) <= described


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def address(site):
    with served(site) as found:
        yield found


@pytest.fixture
def tab(browser, address):
    """A tab, with the list of what went wrong in it. It reaches no other machine."""
    context, troubles = browser.new_context(), []
    context.route(
        lambda url: not url.startswith(address), lambda route: (troubles.append(route), route.abort())
    )
    page = context.new_page()
    page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("response", lambda answer: troubles.append(answer.url) if answer.status >= 400 else None)
    yield page, troubles
    context.close()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)
class TestInBrowser:
    def test_pages_load_without_errors_at_each_width(self, site, pages, address, tab):
        page, troubles = tab
        for path in pages:
            page.goto(f"{address}{path.relative_to(site)}")
            for width in (390, 1280):
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate(WIDER) <= 0, f"{path.name} is wider than {width} pixels"
            assert not troubles, path

    def test_search_finds_a_term_of_a_lesson(self, address, tab):
        page, troubles = tab
        page.goto(f"{address}index.html")
        page.get_by_label("Search").first.fill("utilisation")
        page.keyboard.press("Enter")
        page.wait_for_selector("#search-results li a")
        found = page.locator("#search-results li a").evaluate_all("links => links.map(link => link.href)")
        assert any("02_activation_drift" in link for link in found) and not troubles

    def test_equations_twins_and_figures_are_drawn(self, address, tab):
        page, _ = tab
        page.goto(f"{address}notebooks/05_w4a8_pipeline.html")
        heights = page.locator("math[display=block]").evaluate_all(HEIGHTS)
        assert heights and min(heights) > 12
        page.locator(".cell_output img").evaluate_all(
            "pictures => pictures.forEach(p => p.loading = 'eager')"
        )
        widths = page.locator(".cell_output img").evaluate_all(
            "pictures => pictures.map(p => p.naturalWidth)"
        )
        assert widths and min(widths) > 100
        assert not page.locator(".jupyter-widgets, .widget-container").count()

    def test_folded_code_opens_with_the_keyboard(self, address, tab):
        page, _ = tab
        page.goto(f"{address}notebooks/00_start_here.html")
        folded = page.locator("details.above-input").first
        folded.locator("summary").focus()
        page.keyboard.press("Enter")
        assert folded.get_attribute("open") is not None and folded.locator("pre").is_visible()

    @pytest.mark.parametrize(
        "scheme, chosen",
        [("light", KINDS), ("dark", DARK), pytest.param("light", None, marks=pytest.mark.exhaustive)],
        ids=["light", "dark", "light-all"],
    )
    def test_axe_finds_nothing_serious(self, scheme, chosen, site, pages, address, browser):
        from axe_playwright_python.sync_playwright import Axe

        context = browser.new_context(color_scheme=scheme, viewport={"width": 390, "height": 844})
        page = context.new_page()
        for path in chosen or [path.relative_to(site) for path in pages]:
            page.goto(f"{address}{path}")
            found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
            serious = [(item["id"], item["nodes"][0]["html"]) for item in found if item["impact"] in SERIOUS]
            assert not serious, path
        context.close()
