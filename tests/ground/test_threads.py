import pytest

from edgemtl.ground.errors import UsageError
from edgemtl.ground.threads import threads


def test_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEMTL_THREADS", raising=False)
    assert threads() is None
    monkeypatch.setenv("EDGEMTL_THREADS", "3")
    assert threads() == 3


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_anything_else_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEMTL_THREADS", text)
    with pytest.raises(UsageError, match="EDGEMTL_THREADS"):
        threads()
