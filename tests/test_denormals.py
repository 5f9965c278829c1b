import pytest
import torch

from dvae_lib.denormals import flush_denormals


def product() -> float:
    tiny = torch.tensor(1e-30, dtype=torch.float32)
    return (tiny * torch.tensor(1e-10, dtype=torch.float32)).item()


def test_the_mode_is_left_as_it_was():
    assert product() > 0
    with flush_denormals():
        assert product() == 0
        with flush_denormals():
            assert product() == 0
        assert product() == 0
    assert product() > 0
    with pytest.raises(ZeroDivisionError), flush_denormals():
        raise ZeroDivisionError
    assert product() > 0


def test_the_caller_s_default_type_does_not_matter():
    torch.set_default_dtype(torch.float64)
    try:
        with flush_denormals():
            with flush_denormals():
                pass
            assert product() == 0
    finally:
        torch.set_default_dtype(torch.float32)
    assert product() > 0
