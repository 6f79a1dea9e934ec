"""What is wrong with a page for those who see, hear or aim badly, as far as a program can tell."""

from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
# Colours that are changing have no contrast yet.
FINISHED = """() => Promise.allSettled(
    document.getAnimations().filter(a => a instanceof CSSTransition).map(a => a.finished)
).then(() => null)"""


def problems_of(page: Page, *, options: Any = None, context: Any = None) -> list[str]:
    """What axe finds by day, and of the colours by night; and if it is wider than its screen."""
    found = []
    for scheme, wanted in (("light", options), ("dark", COLOURS)):
        page.emulate_media(color_scheme=scheme)
        page.evaluate(FINISHED)
        violations = Axe().run(page, context=context, options=wanted).response["violations"]
        found += [f"{v['id']} ({scheme}): {v['nodes'][0]['html'][:200]}" for v in violations]
    page.emulate_media(color_scheme="light")
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        found.append("wider than the screen")
    return found
