"""The page's table of contents: an anchor at every section, and links to them.

body with <h2>TITLE</h2> --sections--> links, body with <h2 id="...">TITLE</h2>
"""

import re
from html import unescape

from prealign_cpt.evaluate.compare import unique

HEADING = re.compile("<h2>(.*?)</h2>")


def sections(body: str) -> tuple[str, str]:
    """A list of links to the sections of a body, and the body with their anchors. Text of the run is escaped in it,
    so that every heading is the page's own."""
    titles = HEADING.findall(body)
    anchors = unique(_anchor(title) for title in titles)
    left = iter(anchors)
    marked = HEADING.sub(lambda found: f'<h2 id="{next(left)}">{found[1]}</h2>', body)
    links = "".join(f'<li><a href="#{anchor}">{title}</a></li>' for anchor, title in zip(anchors, titles, strict=True))
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>', marked


def lowered(body: str) -> str:
    """A body whose headings are one level lower, for a place inside a section."""
    for level in (3, 2):
        body = body.replace(f"<h{level}>", f"<h{level + 1}>").replace(f"</h{level}>", f"</h{level + 1}>")
    return body


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", unescape(title).lower()).strip("-") or "section"
