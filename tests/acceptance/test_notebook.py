"""The example notebook, executed by Jupyter's own client."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.builders import REPOSITORY


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It plans, trains, shows data frames and a report, and trains a trial without a database."""
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    book = nbformat.read(REPOSITORY / "examples" / "notebook.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in book.cells)  # only the source is kept
    client = NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [out for cell in book.cells for out in cell.get("outputs", [])]
    texts = "".join(out.get("text", "") for out in outputs)
    shown = [out["data"] for out in outputs if "data" in out]
    assert texts.count(": finished ") == 9
    assert "Planned(sweep='notebook', new=9, kept=0" in shown[0]["text/plain"]
    assert "mean_test_accuracy" in shown[1]["text/html"]
    assert shown[-1]["text/html"].startswith("<iframe srcdoc=")
    assert [line.split()[0] for line in texts.splitlines()[-3:]] == ["1", "2", "3"]
