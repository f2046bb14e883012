"""Data sets made once: whatever the pictures depend on is in the folder's name."""

import json
import os
import threading

import psutil

from course_lib.data import sets
from course_lib.data.make import LOCK
from course_lib.data.sets import people_samples, rendered


def test_settings_that_differ_have_folders_that_differ(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    plain = rendered("studio", 2, 16)
    others = [rendered("studio", 2, 16, seed=2), rendered("studio", 2, 16, views=2), rendered("studio", 2, 16, "val")]
    assert len({plain, *others}) == 4 and all(folder.parent == tmp_path for folder in others)
    assert rendered("studio", 2, 16, seed=0) == plain  # the default says nothing
    keys = [[sample.key for sample in people_samples("studio", 2, 16, seed=seed, only=())] for seed in (0, 2)]
    assert len(list(tmp_path.iterdir())) == 4 and all(map(len, keys))


def test_a_set_that_another_process_makes_is_waited_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    monkeypatch.setattr(sets, "PATIENCE", 0.2)
    lock = rendered("studio", 1, 16) / LOCK
    assert capsys.readouterr().out == ""
    lock.write_text(json.dumps({"pid": os.getpid(), "started": psutil.Process().create_time()}))
    released = threading.Timer(1.0, lock.unlink)
    released.start()
    assert rendered("studio", 1, 16) == lock.parent and not released.is_alive()
    said = capsys.readouterr().out
    assert said.count("waiting, since") == 1 and f"being made by process {os.getpid()}" in said
