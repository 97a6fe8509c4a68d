"""Floor 5: the ``bevstack`` command. Nothing heavy is imported before a command needs it."""
