"""Site only: the pages at the root of the repository join those in docs/, and links between them are turned to fit.

In the repository every link works as it stands, so no page is written for the site alone.
"""

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT_PAGES = {
    "METHODS.md": "methods/index.md",
    "ARCHITECTURE.md": "project/architecture.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "benchmarks/README.md": "project/benchmarks.md",
}
"""Where pages of the repository stand in the site."""

_LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages of the root."""
    root = Path(config.config_file_path).parent
    for path, uri in ROOT_PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Turn the links of a page, which are relative to its place in the repository, to places in the site."""
    here = page.file.src_uri
    mounted = {uri: path for path, uri in ROOT_PAGES.items()}
    folder = posixpath.dirname(mounted.get(here, f"docs/{here}"))

    def turned(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2]))
        uri = ROOT_PAGES.get(target, target.removeprefix("docs/"))
        return link[1] + posixpath.relpath(uri, posixpath.dirname(here) or ".") + link[3]

    return _LINK.sub(turned, markdown)
