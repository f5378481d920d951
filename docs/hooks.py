"""For mkdocs: links to files outside of docs/, which the site does not have, become plain text."""

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page's text with the path in place of such a link."""
    return _OUTSIDE.sub(lambda link: f"`{link[2].removeprefix('../')}`", markdown)
