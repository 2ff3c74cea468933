"""Hooks of mkdocs.yml: pages that stand outside of docs/, and a check that the site loads nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# The site's names of pages that GitHub looks for in the repository's root, and of one that each project has.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "config/prometheus/runbook.md": "runbook.md",
}
# What a browser fetches without being asked to: scripts, styles, images, fonts and frames, but not links to follow. Material
# would get the program for diagrams from a CDN.
LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\ssrc=["']?(?:https?:)?//[^>]*>
    |<link\b[^>]*\shref=["']?(?:https?:)?//[^>]*>
    |\burl\(["']?(?:https?:)?//[^)]*\)|@import[^;]*//[^;]*;
    |<pre\ class="mermaid">""",
    re.VERBOSE,
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links between docs/ and the root links within the site."""
    for name, target in OUTSIDE.items():
        markdown = re.sub(rf"\]\((?:\.\./)?{re.escape(name)}(#[^)]*)?\)", rf"]({target}\1)", markdown)
    return markdown.replace("](docs/", "](") if page.file.src_uri in OUTSIDE.values() else markdown


def on_post_build(config: MkDocsConfig) -> None:
    site = Path(config.site_dir)
    loaded = [
        f"{path.relative_to(site)}: {match[0]}"
        for path in sorted(site.rglob("*"))
        if path.suffix in (".html", ".css")
        for match in LOADED.finditer(path.read_text())
    ]
    if loaded:
        raise PluginError("The site would load from elsewhere:\n" + "\n".join(loaded))
