"""The notebooks run from the first cell to the last."""

import json
from pathlib import Path

import pytest

from tests.support.decided_run import decided_run

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_every_cell_runs(notebook, tmp_path, data_dir, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    decided_run(tmp_path / "runs")
    (tmp_path / "runs" / "data").symlink_to(data_dir)
    cells = json.loads(notebook.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 5
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    names = {}
    for number, text in enumerate(code):
        exec(compile(text, f"{notebook.name}, code cell {number}", "exec"), names)
