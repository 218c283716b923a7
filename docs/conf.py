"""Configuration of the documentation: `make docs` builds it, and any warning fails it."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from generate import write_pages  # noqa: E402

import mtpano_zoo  # noqa: E402

project = "mtpano_zoo"
author = "The mtpano_zoo contributors"
version = release = mtpano_zoo.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["build", "*.py"]
default_role = "code"  # docstrings name code in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["ref.python"]  # a re-exported class is documented once, and has two names
html_theme = "furo"
html_title = "mtpano_zoo"

write_pages(HERE / "generated")
