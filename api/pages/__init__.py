"""The pages for people: the live leaderboard at `/`, the operator's at `/admin`, the contract to read at `/docs`.

Files beside this module, written by hand: no build, no framework, nothing from other hosts. They know no more than any
client, since all they show comes from the API; an operator's key stays in the tab that it was typed into.

What a player calls himself ends up on these pages, so a browser is told to run and load nothing but these files, to
frame them nowhere, and to refuse text that a script would turn into markup.

They are small and read once, when the application is made. A browser asks each time whether its copy is still right
and is told so without the file, so no page ever runs with the script of another version for long.
"""

from collections.abc import Callable
from hashlib import sha256
from importlib.resources import files
from pathlib import PurePath

from flask import Flask, Response, request

ASSETS = "/pages"
#: Where the pages are; every other file is below ASSETS under its own name.
PAGES = {"/": "live.html", "/admin": "admin.html", "/docs": "docs.html"}

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' https: data:",  # avatars are where the players have them
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def add_pages(app: Flask) -> None:
    """Serve the pages and their files, and nothing else below ASSETS."""
    own = {file.name: file.read_bytes() for file in files(__package__).iterdir() if _suffix(file.name) in _MEDIA_TYPES}
    addresses = PAGES | {f"{ASSETS}/{name}": name for name in own if name not in PAGES.values()}
    for address, name in addresses.items():
        app.add_url_rule(
            address,
            f"page {address}",
            _view(own[name], _MEDIA_TYPES[_suffix(name)]),
            methods=["GET"],
            provide_automatic_options=False,
        )


def _suffix(name: str) -> str:
    return PurePath(name).suffix


def _view(body: bytes, media_type: str) -> Callable[[], Response]:
    tag = sha256(body).hexdigest()[:16]

    def view() -> Response:
        response = Response(body, content_type=media_type, headers=_HEADERS)
        response.set_etag(tag)
        response.make_conditional(request)
        return response

    return view
