"""The checks of chapter 15, and for each the wrong answers that it must catch."""
