import pytest

from cmfr.utils import config_files
from cmfr.utils.config_files import find_config


@pytest.fixture(params=["installed", "checkout"])
def package(request, tmp_path, monkeypatch):
    """A package with one configuration of its own, inside it or beside it."""
    inside = request.param == "installed"
    folder = tmp_path / "cmfr" / "configs" if inside else tmp_path / "configs"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "tiny.yaml").write_text("{}")
    monkeypatch.setattr(config_files, "__file__", str(tmp_path / "cmfr" / "utils" / "x.py"))
    return folder


def test_by_name_or_by_path(package, tmp_path):
    assert find_config("train", "tiny") == package / "train" / "tiny.yaml"
    own = tmp_path / "own.yaml"
    own.write_text("{}")
    assert find_config("train", own) == own
    with pytest.raises(ValueError, match="no train configuration is called 'tin'; there are tiny; "
                       "did you mean tiny"):  # fmt: skip
        find_config("train", "tin")
    with pytest.raises(FileNotFoundError, match="absent.yaml$"):
        find_config("train", "absent.yaml")
    with pytest.raises(FileNotFoundError, match="a/tiny.yml; the shipped one is called tiny"):
        find_config("train", "a/tiny.yml")
