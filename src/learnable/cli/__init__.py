"""The command line: commands, recipes, what they print, and what is said when a line is wrong."""
