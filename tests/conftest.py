"""What all tests share."""

import logging

import jaxtyping
import pytest


@pytest.fixture
def as_a_user():
    """Without the shape checks of the test run, so that the library's own errors are met, as users meet them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _quiet_again():
    """What the commands say aloud in one test is not said in the next: they give the library's logger a handler."""
    logger = logging.getLogger("dvae_lib")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers = handlers
    logger.setLevel(level)
