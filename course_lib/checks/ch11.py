"""The checks of chapter 11, and for each the wrong answers that it must catch."""
