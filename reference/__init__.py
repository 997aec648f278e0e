"""The pages of `docs/reference/`, generated from the catalogs of the code.

`make reference` writes the pages. Each page is a module with a function `page`, which returns its
Markdown.
"""
