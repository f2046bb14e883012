"""The check of chapter 00: a person, an alpha and another background."""

import torch

from course_lib.checks import check_for, expect_close, expect_not_close, expect_unchanged, wrong_answer

ALPHA = torch.tensor([[1.0, 0.0, 0.25], [0.5, 1.0, 0.0], [0.0, 0.75, 1.0]])  # (H, W) = (3, 3)
PERSON = torch.linspace(0.1, 0.9, 27).view(3, 3, 3)
SCENE = torch.linspace(1.0, 0.0, 27).view(3, 3, 3)


@check_for("00.1")
def composite(answer):
    person, scene, weight = PERSON.clone(), SCENE.clone(), ALPHA[..., None]  # weight (H, W, 1)
    result = answer(person, ALPHA, scene)
    for mistake, words in (
        (
            ALPHA * PERSON + (1 - ALPHA) * SCENE,  # three columns and three colours: the wrong axes fit here
            "alpha was spread over columns and colours. It needs a channel axis of size 1 at the end: alpha[..., None]",
        ),
        (
            weight * SCENE + (1 - weight) * PERSON,
            "the person is see-through and the scene is not: alpha is the person's share",
        ),
        (
            weight * PERSON + SCENE,
            "too bright: where the person covers a share alpha of a pixel, only 1 - alpha is left of the scene",
        ),
        (
            torch.where(weight > 0.5, PERSON, SCENE),
            "alpha 0.25 must show a quarter of the person: mix the two colours, do not choose one of them",
        ),
        (torch.where(weight >= 0.5, PERSON, SCENE), "alpha 0.5 must show half of the person: mix the two colours"),
    ):
        expect_not_close(result, mistake, words)
    expect_close(result, weight * PERSON + (1 - weight) * SCENE, "the picture")
    expect_unchanged(person, PERSON, "the person's picture")
    expect_unchanged(scene, SCENE, "the scene")
    wide = answer(PERSON[:2], ALPHA[:2], SCENE[:2])  # not square
    expect_close(wide, (weight * PERSON + (1 - weight) * SCENE)[:2], "a picture 2 high and 3 wide")


@wrong_answer("00.1", says="channel axis")
def without_a_channel_axis(person, alpha, scene):
    return alpha * person + (1 - alpha) * scene


@wrong_answer("00.1", says="alpha is the person's share")
def swapped(person, alpha, scene):
    return (1 - alpha[..., None]) * person + alpha[..., None] * scene


@wrong_answer("00.1", says="only 1 - alpha is left")
def added(person, alpha, scene):
    return alpha[..., None] * person + scene


@wrong_answer("00.1", says="mix the two colours")
def cut_out(person, alpha, scene):
    return torch.where(alpha[..., None] > 0.5, person, scene)


@wrong_answer("00.1", says="changed in place")
def in_place(person, alpha, scene):
    return person.mul_(alpha[..., None]).add_((1 - alpha[..., None]) * scene)
