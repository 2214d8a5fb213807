"""The exceptions a user can meet: one small tree, each message one sentence of advice."""


class LamellaError(Exception):
    """Something the user can put right.

    The message names the value, what was allowed and where it came from; the command line prints it and
    leaves with exit code 2. It is one line, even where it quotes something that is not.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


class ConfigError(LamellaError):
    """An experiment file, a registry file or a command-line setting says something that cannot be done."""


class RegistryError(LamellaError):
    """A name, a plugin or a component's parameters are not what the registry knows."""


class ContractError(LamellaError):
    """A component does not do what its kind promises (shape, dtype, range, gradient)."""


class DataError(LamellaError):
    """An image, a mask, a table or a folder cannot be read as it is."""


class RunError(LamellaError):
    """A run folder is missing, incomplete, or of a format this version cannot read."""
