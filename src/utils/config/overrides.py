"""The overrides of a command line, as Hydra's grammar has them: `x=1`, `+x=1`, `~x`, `group@package=file`."""


def override_key(override: str) -> str:
    """Return the key of an override: `x` of `+x=1`, `hydra.sweeper.sampler` of `hydra/sweeper/sampler=…`."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")
