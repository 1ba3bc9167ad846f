"""The verbs of the command line, one file per kind of thing they act on."""
