"""What all tests share."""

import jaxtyping
import pytest


@pytest.fixture
def as_a_user():
    """Without the shape checks of the test run, so that the library's own errors are met, as users meet them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
