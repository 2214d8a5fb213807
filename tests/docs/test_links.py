"""Every link of every page leads to a file of the project, and to a heading that is there."""

import re
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2]
PLACES = ("*.md", "docs/**/*.md", "examples/**/*.md", "plugins/*/*.md")
PAGES = sorted(page for place in PLACES for page in HOME.glob(place))


def headings(page):
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken(page):
    """The links of a page that lead nowhere."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        if re.match(r"[a-z]+:", target):
            continue
        if not there.exists() or (anchor and anchor not in headings(there)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HOME)))
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_what_leads_nowhere_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title, of two\n[a](#a-title-of-two) [b](#another) [c](missing.md) [d](page.md#a-title-of-two)")
    assert broken(page) == ["#another", "missing.md"]
