"""What the chapters export, made by `course build` from `solutions/`."""
