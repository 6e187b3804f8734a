import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from edgemtl.ground.errors import UsageError
from edgemtl.ground.files import sha256
from edgemtl.networks import checkpoint
from edgemtl.records import recipe as recipes
from edgemtl.training import mean


def run(folder: Path, value: float, count: int = 1, half: bool = False, **changes: Any) -> Path:
    folder.mkdir()
    stated = recipes.load("nyud_edge", [f"{key}={value}" for key, value in changes.items()])
    (folder / "recipe.json").write_text(json.dumps({"recipe": stated.model_dump(mode="json")}))
    weight = torch.full((2, 3), value, dtype=torch.float16 if half else torch.float32)
    tensors = {"conv.weight": weight, "norm.num_batches_tracked": torch.tensor(count)}
    checkpoint.save(folder / "float.safetensors", tensors, {"recipe": "nyud_edge"})
    return folder


def test_the_mean_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of weights, whatever they are stored in; of what counts steps, the first's."""
    sources = [run(tmp_path / "a", 1.0, 5), run(tmp_path / "b", 2.0, 7, half=True), run(tmp_path / "c", 6.0)]
    monkeypatch.setattr("sys.argv", ["mean", str(tmp_path / "out"), *map(str, sources)])
    assert mean.main() == 0
    file = tmp_path / "out" / "float.safetensors"
    assert capsys.readouterr().out == f"{file}\n"
    made = load_file(file)
    assert made["conv.weight"].dtype == torch.float32 and (made["conv.weight"] == 3).all()
    assert made["norm.num_batches_tracked"] == 5
    about = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert about["recipe"] == json.loads((sources[0] / "recipe.json").read_text())["recipe"]
    assert [each["sha256"] for each in about["mean_of"]] == [sha256(source / "float.safetensors") for source in sources]
    assert mean.main() == 2 and "already holds float.safetensors" in capsys.readouterr().err


def test_what_has_no_mean_is_refused_in_a_line(tmp_path: Path) -> None:
    one, wide = run(tmp_path / "a", 1.0), run(tmp_path / "wide", 1.0, **{"network.options.width": 64})
    longer = run(tmp_path / "longer", 1.0)
    checkpoint.save(longer / "float.safetensors", {"conv.weight": torch.zeros(2, 4)}, {})
    (tmp_path / "empty").mkdir()
    for sources, said in (
        ([one], "two runs at least"),
        ([one, wide], "another network, or other tasks, than"),
        ([one, longer], "another network, or other tasks, than"),
        ([one, tmp_path / "empty"], "empty"),
    ):
        with pytest.raises(UsageError, match=said) as error:
            mean.mean(tmp_path / "out", sources)
        assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
