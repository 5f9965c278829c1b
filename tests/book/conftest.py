import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def html() -> Path:
    """The built site, which `make test` names; without it, the tests of the published pages are skipped."""
    folder = os.environ.get("BOOK_HTML")
    if folder is None:
        pytest.skip("needs a built site: run `make test`, or set BOOK_HTML to the folder of a build")
    return Path(folder)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(html):
    """The built site, served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(html)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def browser(html):
    """A browser without the web."""
    from playwright.sync_api import sync_playwright
    from test_pages import CHROMIUM, QUIET

    assert CHROMIUM, "chromium is not installed: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()
