"""The handlers of the commands: each takes the parsed options and returns the exit status.

A handler imports what it needs when it is called, so that the command line starts quickly.
"""
