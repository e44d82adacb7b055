"""The site: `make site` builds it with Sphinx from the pages of this folder."""

import re
from importlib.metadata import version as version_of
from pathlib import Path

project = "unseen"
author = "The unseen team"
release = version = version_of("unseen")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"unseen {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]

# Links to headings are formed as on GitHub, where the pages are read too.
myst_heading_anchors = 4
myst_enable_extensions = ["deflist", "dollarmath"]

# Types stand in the signatures; docstrings are of Google's style.
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "__init__, __new__"}
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

# What lies beside the pages and not on the site is linked where it is read.
SOURCE = "https://github.com/unseen-segmentation/unseen/blob/main/"
OUTSIDE = re.compile(r"\]\(((?:\.\./)+)((?!docs/)[^)]+)\)")
ROOT = Path(__file__).parents[1]


def _link_outside(app, page, source):
    """Relative links that leave this folder lead to the repository."""
    here = (Path(app.srcdir) / page).parent

    def absolute(found):
        target = (here / (found[1] + found[2]).partition("#")[0]).resolve()
        if target.is_relative_to(Path(app.srcdir).resolve()):
            return found[0]
        return f"]({SOURCE}{target.relative_to(ROOT)})"

    source[0] = OUTSIDE.sub(absolute, source[0])


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", _link_outside)
