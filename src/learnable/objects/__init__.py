"""Objects in and out, one layer below the commands: rows, a model, a table of scores, a selection."""
