import pytest

from d2_seesaw.engine import train_options


def test_every_call_gives_fresh_options():
    train_options()["amp"]["enabled"] = True
    assert train_options()["amp"]["enabled"] is False


def test_an_unknown_option_is_named():
    with pytest.raises(TypeError, match=r"unknown train options \['epoch'\]"):
        train_options(epoch=3)
