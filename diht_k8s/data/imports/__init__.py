"""Readers of data sets as others lay them out on disk, and the writer of shards.

A reader makes a `records.Source`: how many records there are, how to read a range of them, and the class names. It
knows nothing of what is done with them. `layouts` finds the reader of a folder or a file.
"""
