"""Hydra's own suites for launchers, on ours: programs that are nobody's experiment run on it as on Hydra's."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from hydra.core.plugins import Plugins
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite

# How a launcher becomes known to programs that do not register it: Hydra looks into this package.
PLUGIN = """\
from src.utils.sweep.config import register
from src.utils.sweep.launcher import ForkLauncher

register()
"""


@pytest.fixture(scope="module", autouse=True)
def known_launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`hydra/launcher=fork` in this process and in those that the suites start."""
    from src.utils.sweep.config import register
    from src.utils.sweep.launcher import ForkLauncher

    folder = tmp_path_factory.mktemp("plugin")
    (folder / "hydra_plugins").mkdir()
    (folder / "hydra_plugins" / "jikken.py").write_text(PLUGIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
        register()
        Plugins.instance().register(ForkLauncher)
        yield


@pytest.mark.parametrize(("launcher_name", "overrides"), [("fork", [])])
class TestLauncher(LauncherTestSuite):
    """All of it applies."""


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"), [({}, ["-m", "hydra/launcher=fork"])]
)
class TestIntegration(IntegrationTestSuite):
    """All of it applies."""
