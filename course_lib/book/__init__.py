"""The book: a static site from the notebooks with their stored outputs. `build.build_book` makes it, `inspect` holds
it to what it promises; `book/` has its hand-written pages and Sphinx's settings."""
