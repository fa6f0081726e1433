"""Hooks of mkdocs: the pages that no one writes, and the files outside ``docs`` that are pages too."""

import fnmatch
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from tools.site import notebooks, reference
from tools.site.dialect import python_markdown

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "SECURITY.md": "security.md",
    **{
        f"bundles/{name}/docs/README.md": f"bundles/{name}.md"
        for name in ("meddap_study", "ultrasound_classifier", "ultrasound_ldm", "uslora_adapter")
    },
}
"""A file of the repository -> its page."""
_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, then fill the places of the navigation that are patterns."""
    made = {**reference.pages(), **notebooks.pages(ROOT)}
    made |= {page: (ROOT / name).read_text() for name, page in OUTSIDE.items() if (ROOT / name).is_file()}
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    config.nav = _filled(config.nav, [file.src_uri for file in files.documentation_pages()])
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages, and lists into what mkdocs reads."""
    return python_markdown(linked(markdown, page.file.src_uri))


def linked(markdown: str, page: str) -> str:
    """Return a page's text with its links as they must be on the site.

    Args:
        markdown: text, whose links are those of its file in the repository.
        page: its path below ``docs``.
    """
    here = next((name for name, made in OUTSIDE.items() if made == page), f"docs/{page}")

    def turned(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), match[1]))
        there = OUTSIDE.get(target, target.removeprefix("docs/"))
        if there == target:  # no page of the site
            return match[0]
        return f"]({posixpath.relpath(there, posixpath.dirname(page) or '.')}"

    return _LINK.sub(turned, markdown)


def on_post_build(config: Any) -> None:
    """Refuse a site that loads anything from elsewhere.

    Raises:
        PluginError: a page with a script, style, font, picture or frame of another place.
    """
    for file in sorted(Path(config.site_dir).rglob("*.html")):
        found = outside(file.read_text(encoding="utf-8"))
        if found:
            raise PluginError(f"{file}: loads {found[0]} from elsewhere; the site must work without a network")


def outside(page: str) -> list[str]:
    """Return the addresses of other places that a page loads by itself; links that a reader follows do not count."""
    loaded = re.findall(
        r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)", page
    )
    return loaded + re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')\s]+)", page)


def _filled(nav: Any, pages: list[str]) -> Any:
    """Return a navigation with each pattern (``reference/commands/*.md``) replaced by the pages that match it."""
    if isinstance(nav, dict):
        return {title: _filled(item, pages) for title, item in nav.items()}
    if isinstance(nav, list):
        named = {
            item for one in nav for item in ([one] if isinstance(one, str) else one.values()) if isinstance(item, str)
        }
        made: list[Any] = []
        for item in nav:
            if isinstance(item, str) and "*" in item:
                made += [page for page in sorted(fnmatch.filter(pages, item)) if page not in named]
            else:
                made.append(_filled(item, pages))
        return made
    return nav
