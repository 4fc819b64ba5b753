"""Settings of Sphinx for the site of the course. ``make site`` runs it; see ``tools/site.py``."""

import json
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

project = "Quantizing diffusion models"
author = "The qdiff_lib authors"
copyright = "The qdiff_lib authors. Code: MIT, text and figures: CC BY 4.0"
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = [".doctrees"]
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("scrolling.js", {"defer": "defer"})]
html_favicon = "_static/icon.svg"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
html_math_renderer = "mathml"  # part of the page: no script, no network

nb_execution_mode = "off"  # the committed notebooks, as they were run
nb_ipywidgets_js = {}  # widgets are shown as their static twins
nb_merge_streams = True
nb_code_prompt_show = "Show the {type}"
nb_code_prompt_hide = "Hide the {type}"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4

default_role = "code"
highlight_language = "default"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
add_module_names = False
napoleon_use_ivar = True
nitpicky = False


def mathml(latex: str, display: str) -> str:
    """The equation in MathML, which browsers draw without a script.

    display: "inline" or "block".
    """
    return convert(latex, display=display)


def visit_inline(writer, node) -> None:
    writer.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_block(writer, node) -> None:
    writer.body.append(f'<div class="math">{mathml(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def add_alt_texts(app, doctree) -> None:
    """Give the figures of a notebook the alt texts that its outputs have."""
    source = Path(app.env.doc2path(app.env.docname))
    if source.suffix != ".ipynb":
        return
    cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    texts = [out["metadata"]["image/png"]["alt"] for out in outputs if "image/png" in out.get("data", {})]
    figures = [image for image in doctree.findall(nodes.image) if "jupyter_execute" in image["uri"]]
    for image, text in zip(figures, texts, strict=True):
        image["alt"] = text


def complete(app, page, template, context, doctree) -> None:
    """Give headings of the menu their level, and a page such as README.ko its own language."""
    menu = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = menu.replace('role="heading"', 'role="heading" aria-level="2"')
    if page.endswith(".ko"):
        context["language"] = "ko"


def setup(app) -> None:
    renderers = {"inline_renderers": (visit_inline, None), "block_renderers": (visit_block, None)}
    app.add_html_math_renderer("mathml", **renderers)
    app.connect("doctree-read", add_alt_texts)
    app.connect("html-page-context", complete, priority=900)  # after the theme
