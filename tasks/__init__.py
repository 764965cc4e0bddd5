"""One module per stage, each a plain function on files; command.py turns it into a command."""
