"""Settings of Sphinx, and the picture of the layers."""

import sys
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "script")]

import layers  # noqa: E402 - found by the line above

project = "PyF.Station"
author = "the PyF.Station authors"
project_copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [
    # The standard library's own documentation is elsewhere.
    ("py:.*", r"(collections|contextlib|enum|opentelemetry|os|pathlib|ssl)\..*"),
    ("py:.*", r".*twisted\..*"),
    ("py:.*", r"pyf\.transport\.(census|frames|resume|states)\..*"),
    ("py:.*", r"pyf\.station\.(carrier\.StationProtocol|session\.Session)"),
]

html_theme = "furo"
html_title = "PyF.Station"
html_static_path = ["_static"]
html_css_files = ["station.css"]
html_copy_source = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"


class Layers(SphinxDirective):
    """The rooms of the source from top to bottom, as script/layers.py knows them."""

    def run(self) -> list[nodes.Node]:
        modules = layers.sources(layers.FOLDERS)
        rooms = "".join(
            f"<section><h4>{escape(room.title)}</h4>{boxes}</section>"
            for room in layers.ROOMS
            if (boxes := "".join(map(box, filter(modules.__contains__, room.modules))))
        )
        return [nodes.raw("", f'<div class="layers">{rooms}</div>', format="html")]


def box(module: str) -> str:
    folder, name = layers.file_of(module).split("/", 1)
    return f'<code class="{folder}"><span>{folder}/</span>{name}</code>'


def setup(app: Sphinx) -> None:
    app.add_directive("layers", Layers)
