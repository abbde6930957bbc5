"""Turn the settings in the shell files into commands, and print or run these. cells.sh says how it is used.

This package stands alone, so that it starts at once: no torch, nothing of `common`.

* environment: what the user asks for, in environment variables and on the command line
* tables: the published table, whose settings each method has in a shell file of its own
* grids: all methods together, with the settings in one shell file
* jobs: running commands, several at a time
"""
