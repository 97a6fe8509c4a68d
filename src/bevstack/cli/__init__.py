"""Floor 5: the `bevstack` command."""
