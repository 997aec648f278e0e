"""The widths of a paper's column and page, in inches."""

from __future__ import annotations

from fedsweep.errors import RequestError

COLUMN, PAGE = 3.25, 6.75
"""A column and the text of a page in the style of ICML. Those of CVPR are 0.1 wider at most.

NeurIPS and ICLR have one column of 5.5 inches.
"""
WIDTHS = {"column": COLUMN, "page": PAGE}
"""The widths that have a name."""
NARROWEST, WIDEST = 2.0, 30.0
"""The limits of a figure's width. Labels do not fit a narrower one."""


def figure_width(text: str) -> float | None:
    """Return the width that an option names: "column", "page" or inches. None stands for "auto".

    Raises:
        RequestError: The text is not a width, or the width is too small or too large.

    """
    if text == "auto":
        return None
    try:
        inches = WIDTHS[text] if text in WIDTHS else float(text)
    except ValueError:
        inches = 0.0
    if not NARROWEST <= inches <= WIDEST:
        raise RequestError(
            f"--figure-width {text}: use auto, column, page, or inches from {NARROWEST:g} to "
            f"{WIDEST:g}, such as 5.5"
        )
    return inches


def own_width(panels: int, inches: float | None) -> float:
    """Return the width of a figure. By default, one panel fills a column, and more fill a page."""
    return inches or (COLUMN if panels == 1 else PAGE)
