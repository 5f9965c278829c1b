import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def html() -> Path:
    """The built site, which `make test` names; without it, the tests of the published pages are skipped."""
    folder = os.environ.get("BOOK_HTML")
    if folder is None:
        pytest.skip("needs a built site: run `make test`, or set BOOK_HTML to the folder of a build")
    return Path(folder)
