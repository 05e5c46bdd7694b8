"""Sub-commands of the `clusterheal` command, one module each; each has `register(app)`."""
