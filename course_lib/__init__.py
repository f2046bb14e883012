"""What the five papers need but do not teach; what they teach is in `course_lib.chapters`, made from `solutions/`."""

import os

if os.environ.get("COURSE_NOTE_DATA"):  # `course run` wants to know which data sets a chapter opens
    from course_lib import opened

    opened.watch()
