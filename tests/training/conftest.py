"""What all tests of training use."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread_for_the_tiny_model(request, monkeypatch):
    """Two threads on so little work mostly wait for each other, the more so on a busy machine."""
    threads = torch.get_num_threads()
    if "tiny_model" in request.fixturenames:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
