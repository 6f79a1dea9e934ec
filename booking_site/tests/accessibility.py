"""What is wrong with a page for those who see, hear or aim badly, as far as a program can tell."""

import re
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page

COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
# What is right, or cannot be told, is found out no further: that would be most of the time. Nor are
# the style sheets read once more, for a rule that is off.
FIND = """([context, options]) => axe
    .run(context || document, {
        resultTypes: ["violations"], preload: { assets: ["media"] }, ...options
    })
    .then(found => found.violations.map(v => [v.id, v.nodes[0].html.slice(0, 200)]))"""
# Until htmx has settled, what is new still has the classes of what was there, and is as pale as
# what is being sent. Colours that are changing have no contrast yet.
PUT_IN = """() => !document.querySelector(
    ".htmx-request, .htmx-swapping, .htmx-settling, .htmx-added")"""
FINISHED = """() => Promise.allSettled(
    document.getAnimations().filter(a => a instanceof CSSTransition).map(a => a.finished)
).then(() => null)"""


def alert_of(page: Page) -> Locator:
    """The one thing that the page calls out. Where it may do so later there is nothing yet."""
    return page.get_by_role("alert").filter(has_text=re.compile(r"\S"))


def problems_of(page: Page, *, options: Any = None, context: Any = None) -> list[str]:
    """What axe finds by day, and of the colours by night; and if it is wider than its screen."""
    found = []
    for scheme, wanted in (("light", options), ("dark", COLOURS)):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(PUT_IN)
        page.evaluate(FINISHED)
        found += [
            f"{rule} ({scheme}): {html}"
            for rule, html in violations(page, options=wanted, context=context)
        ]
    page.emulate_media(color_scheme="light")
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        found.append("wider than the screen")
    return found


def violations(page: Page, *, options: Any = None, context: Any = None) -> list[tuple[str, str]]:
    """The rules of axe that are broken, each with the first element that breaks it."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(Axe().axe_script)
    return [tuple(each) for each in page.evaluate(FIND, [context, options or {}])]
