"""Holds a built site to what it promises: links lead somewhere, nothing comes from outside, no picture is mute."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


class Page(HTMLParser):
    """What a page links to, loads and shows."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.mute: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """HTMLParser calls this."""
        found = dict(attrs)
        self.ids |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if found.get(LOADING.get(tag, "")) and found.get("rel") not in ("index", "search", "next", "prev", "canonical"):
            self.loads.append(found[LOADING[tag]])
        alt = found.get("alt") or ""
        if tag == "img" and (not alt.strip() or alt.endswith(".png")):
            self.mute.append(found.get("src", "")[:60])


def read_pages(site: Path) -> dict[Path, Page]:
    """Every page of the site."""
    files = (path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts)
    return {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in files}


def is_outside(address: str) -> bool:
    """Whether the address leads to another server."""
    return address.startswith("//") or urlsplit(address).scheme in ("http", "https", "ftp")


def broken(page: Path, address: str, pages: dict[Path, Page]) -> str:
    """Why a link of the page leads nowhere; empty where it leads somewhere, or out of the site."""
    parts = urlsplit(address)
    if parts.scheme or is_outside(address):
        return ""
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.exists():
        return f"{address} is not there"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].ids:
        return f"{address}: the page has no such place"
    return ""


def find_faults(site: Path) -> list[str]:
    """Everything that is wrong with the site, page by page."""
    site = site.resolve()
    pages = read_pages(site)
    found = [] if pages else [f"{site.name}: there is no page"]
    for path, page in pages.items():
        name = path.relative_to(site).as_posix()
        found += [f"{name}: {words}" for words in page_faults(path, page, pages)]
    return found


def page_faults(path: Path, page: Page, pages: dict[Path, Page]) -> Iterator[str]:
    """What is wrong with one page."""
    for address in dict.fromkeys(page.links + page.loads):
        if words := broken(path, address, pages):
            yield f"broken link: {words}"
    yield from (f"loaded from outside: {address}" for address in page.loads if is_outside(address))
    yield from (f"a picture without alternative text: {source}" for source in page.mute)
