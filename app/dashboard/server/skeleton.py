"""What a page shows until its scripts have loaded: the outline of title, picture and form, in place of nothing."""

from __future__ import annotations

from typing import Final

from app.dashboard.pages import THEME

#: Streamlit draws into this element and replaces what is there.
ROOT: Final = b'<div id="root"></div>'

_BLOCKS: Final = (
    '<b style="width:9rem;height:2.6rem"></b><div>'
    '<b style="flex:3 1 24rem;height:26rem"></b><b style="flex:2 1 18rem;height:26rem"></b></div>'
)
#: Light or dark by the browser's preference, as the page will be.
_STYLE: Final = (
    "<style>#outline{position:fixed;inset:0;padding:6rem 5rem 1rem;background:#fff;color-scheme:light dark;"
    "font:1rem system-ui,sans-serif}#outline div{display:flex;flex-wrap:wrap;gap:2rem;margin-top:2rem}"
    "#outline b{display:block;border-radius:8px;background:#e6e8ec;animation:outline 1.6s ease-in-out infinite}"
    "@keyframes outline{50%{opacity:.5}}"
    f"@media(prefers-color-scheme:dark){{#outline{{background:{THEME['theme.dark.backgroundColor']}}}"
    "#outline b{background:#2c3340}}"
    "@media(prefers-reduced-motion:reduce){#outline b{animation:none}}"
    "@media(max-width:700px){#outline{padding:5rem 1rem 1rem}}</style>"
)


def with_skeleton(page: bytes) -> bytes:
    """The HTML page with the outline in it."""
    outline = f'<div id="root"><div id="outline" role="status" aria-label="Loading">{_STYLE}{_BLOCKS}</div></div>'
    return page.replace(ROOT, outline.encode(), 1)
