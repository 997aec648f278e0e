"""Safe file names from any text: one name in one folder, never a path."""

from __future__ import annotations

import hashlib
import re

LONGEST = 200
"""Bytes of a name. File systems allow 255, and the writer may add an ending."""

_PLAIN = re.compile(r"\w(?:[\w .+-]*[\w+-])?")
_OTHERS = re.compile(r"[^\w.+-]+")


def safe_name(text: str, longest: int = LONGEST) -> str:
    """Return the text if it is a plain file name, otherwise a similar name with the text's hash.

    The names that a plan may have are plain, and stay as they are.
    """
    content = text.encode("utf-8", "surrogatepass")
    if _PLAIN.fullmatch(text) and len(content) <= longest:
        return text
    mark = f"-{hashlib.sha256(content).hexdigest()[:12]}"
    similar = _OTHERS.sub("_", text[:longest]).strip("._-")
    cut = similar.encode()[: longest - len(mark)].decode(errors="ignore").rstrip("._-")
    return f"{cut or 'unnamed'}{mark}"
