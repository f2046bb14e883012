"""Sphinx's settings for the book. `course book` copies this file into `build/book/source` and runs Sphinx there."""

from docutils import nodes

from course_lib.book import docstrings, links

project = "Human-centric vision from scratch"
copyright = "text and figures CC BY 4.0, code Apache-2.0"
author = "the course"
extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

nb_execution_mode = "off"  # the outputs are those that the chapters store
nb_merge_streams = True
nb_output_stderr = "remove"
nb_ipywidgets_js = {"widgets/require.js": {}, "widgets/embed-amd.js": {"data-jupyter-widgets-cdn": ""}}
myst_enable_extensions = ["amsmath", "dollarmath", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "misc.highlighting_failure"]

autodoc_member_order = "bysource"
autodoc_mock_imports = ["anny", "warp", "cdflib", "h5py", "onnx", "embreex", "moderngl"]
python_maximum_signature_line_length = 100
add_module_names = False

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_js_files = ["widgets-math.js"]
html_context = {"default_mode": "auto"}
html_copy_source = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "show_navbar_depth": 1,
    "navigation_with_keys": False,
}
mathjax_path = "mathjax/tex-mml-chtml.js"
# MathJax's menu would fetch its parts from the network; the text of an equation stays readable to a screen reader
mathjax3_config = {"options": {"enableMenu": False}}


def keep_tags(app, doctree) -> None:
    """An equation of several lines goes to MathJax as it is: Sphinx would wrap it so that it could carry no number."""
    for node in doctree.findall(nodes.math_block):
        text = node.astext()
        if r"\\" in text or r"\tag" in text:
            node.children = [nodes.Text(rf"\[{text}\]")]
            node["no-wrap"] = True


def setup(app) -> None:
    """Sphinx calls this."""
    app.connect("doctree-read", keep_tags)
    app.connect("autodoc-process-docstring", docstrings.to_restructured)
    app.connect("html-page-context", links.link_page)
