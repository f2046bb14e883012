"""Data sets made once: whatever the pictures depend on is in the folder's name."""

from course_lib.data.sets import people_samples, rendered


def test_settings_that_differ_have_folders_that_differ(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    plain = rendered("studio", 2, 16)
    others = [rendered("studio", 2, 16, seed=2), rendered("studio", 2, 16, views=2), rendered("studio", 2, 16, "val")]
    assert len({plain, *others}) == 4 and all(folder.parent == tmp_path for folder in others)
    assert rendered("studio", 2, 16, seed=0) == plain  # the default says nothing
    keys = [[sample.key for sample in people_samples("studio", 2, 16, seed=seed, only=())] for seed in (0, 2)]
    assert len(list(tmp_path.iterdir())) == 4 and all(map(len, keys))
