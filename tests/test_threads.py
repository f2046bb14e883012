"""One thread inside, as many as before outside."""

import numpy as np
import pytest
import torch

from course_lib import bf16
from course_lib.data import views
from course_lib.data.lighting import sample_lights
from course_lib.data.render import render_scene
from course_lib.threads import one_thread


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_one_thread_also_after_an_error():
    with pytest.raises(ZeroDivisionError), one_thread():
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == 2


def test_a_scene_is_rendered_with_one():
    seen = []

    class Place:
        def render(self, camera, size):
            seen.append(torch.get_num_threads())
            up = torch.tensor([0.0, 1, 0]).expand(*size, 3)
            return torch.ones(*size, 3), torch.full(size, 5.0), up

    camera = views.camera_at(np.array([0, 1.0, 3]), np.zeros(3), 30, (16, 16))
    render_scene([], camera, (16, 16), sample_lights(np.random.default_rng(0), "sun"), Place())
    assert set(seen) == {1} and torch.get_num_threads() == 2


@pytest.mark.parametrize(("half", "fast"), [(0.5, True), (1.4, True), (1.6, False), (20.0, False)])
def test_bf16_is_fast_where_its_products_are(monkeypatch, half, fast):
    monkeypatch.setattr(bf16, "product_seconds", lambda square: half if square.dtype == torch.bfloat16 else 1.0)
    assert bf16.fast_bf16.__wrapped__("cpu") == fast
    assert bf16.fast_bf16.__wrapped__("cuda")


def test_products_take_time():
    assert 0 < bf16.product_seconds(torch.ones(64, 64)) < 1
