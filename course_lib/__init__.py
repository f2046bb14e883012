"""What the five papers need but do not teach; what they teach is in `course_lib.chapters`, made from `solutions/`."""
