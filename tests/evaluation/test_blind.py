# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from flavr_jax.data.sequences import ArrayClip, regular
from flavr_jax.evaluation import blind


def plain(level):
    """A method that makes grey frames of one level."""
    return lambda sequence: (
        np.full((sequence.factor - 1, *window.shape[1:]), level / 255, np.float32)
        for window in sequence.windows()
    )


@pytest.fixture
def sequences():
    frames = np.zeros((9, 48, 64, 3), np.uint8)
    frames[::2, 30:46, 40:60] = 255  # something blinks at the bottom right
    frames[::4] = 0
    return [regular(ArrayClip(name, frames), 2) for name in ("a", "b")]


def test_the_key_tells_which_side_each_method_is_on_and_sides_vary(sequences):
    made = blind.compare(plain(10), plain(200), sequences, count=20, side=16, seed=1)
    for each in made:
        first = each.left if each.first_is_left else each.right
        second = each.right if each.first_is_left else each.left
        assert first.shape == (16, 16, 3)
        assert (first == 10).all()
        assert (second == 200).all()
    assert 4 < sum(each.first_is_left for each in made) < 16
    assert {each.place[0] for each in made} == {"a", "b"}


def test_a_seed_determines_a_sheet(sequences):
    places = [
        [
            each.place
            for each in blind.compare(plain(1), plain(2), sequences, count=6, side=16, seed=s)
        ]
        for s in (3, 3, 4)
    ]
    assert places[0] == places[1] != places[2]


def test_crops_lie_where_something_moves(sequences):
    made = blind.compare(plain(1), plain(2), sequences, count=20, side=16)
    rows = [int(each.place.split("row ")[1].split(",")[0]) for each in made]
    assert np.median(rows) > 16  # of 0 to 32; a random place would lie at 16


def test_a_sheet_shows_pairs_in_order(sequences):
    made = blind.compare(plain(10), plain(200), sequences, count=4, side=16)
    picture = np.asarray(blind.sheet(made, columns=2))
    assert picture.shape[:2] == (2 * (16 + 18 + 6), 2 * (32 + 18))
    for index, each in enumerate(made):
        top, left = index // 2 * 40 + 18, index % 2 * 50 + 6
        np.testing.assert_array_equal(picture[top : top + 16, left : left + 16], each.left)
        np.testing.assert_array_equal(picture[top : top + 16, left + 22 : left + 38], each.right)


def test_votes_are_counted_by_the_key():
    assert blind.tally("l r =  lR", [True, True, False, False, False]) == (2, 2, 1)
    for votes in ("lr", "lrx"):
        with pytest.raises(ValueError, match=r"for 3 crops; write l, r or ="):
            blind.tally(votes, [True, False, True])


def test_crops_larger_than_frames_are_refused(sequences):
    with pytest.raises(ValueError, match="64×48, but crops are 50×50"):
        blind.compare(plain(1), plain(2), sequences, side=50)
