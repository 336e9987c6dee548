"""Tests of the recorded public API: removing a name breaks the code of users."""

import importlib
import json
import pkgutil

import pytest

import d2_seesaw
from tests.support.api_surface import RECORD, SUBPACKAGES, api_surface


def test_public_names_and_signatures_match_the_record():
    recorded = json.loads(RECORD.read_text())
    assert api_surface() == recorded, "`make api` records a change that was decided"


def test_every_subpackage_with_public_names_is_recorded():
    found = [m.name for m in pkgutil.iter_modules(d2_seesaw.__path__) if m.ispkg]
    modules = {name: importlib.import_module(f"d2_seesaw.{name}") for name in found}
    assert {name for name, m in modules.items() if hasattr(m, "__all__")} <= set(SUBPACKAGES)


@pytest.mark.parametrize("name", SUBPACKAGES)
def test_importing_twice_is_harmless(name):
    importlib.reload(importlib.import_module(f"d2_seesaw.{name}"))
