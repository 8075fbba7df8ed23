"""Hydra's own suites for launchers, on ours: it runs programs that are no experiment as Hydra's do."""

import os
from pathlib import Path

from src.utils.config.sweep_settings import register
from src.utils.sweep.launcher import ForkLauncher

import pytest
from conftest import ROOT
from hydra.core.plugins import Plugins
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite

# How a launcher becomes known to programs that do not register it: Hydra looks into this package.
PLUGIN = """\
from src.utils.config.sweep_settings import register
from src.utils.sweep.launcher import ForkLauncher

register()
"""

Plugins.instance()  # with Hydra's own settings, which the suites' fixture would lose
register()


@pytest.fixture(autouse=True)
def known_launcher(
    hydra_restore_singletons: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hydra/launcher=fork` in this process, and in those that the suites start."""
    Plugins.instance().register(ForkLauncher)
    package = tmp_path / "plugin" / "hydra_plugins"
    package.mkdir(parents=True)
    (package / "jikken.py").write_text(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package.parent), str(ROOT)]))


@pytest.mark.parametrize(("launcher_name", "overrides"), [("fork", [])])
class TestLauncher(LauncherTestSuite):
    """All of it applies."""


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"), [({}, ["-m", "hydra/launcher=fork"])]
)
class TestIntegration(IntegrationTestSuite):
    """All of it applies."""
