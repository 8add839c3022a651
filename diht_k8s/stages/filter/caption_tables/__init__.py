"""The caption pass: tables of URLs and captions in; scores and the list of the pairs that are worth a download out.

`table_parts` splits the tables, `table_filter` filters a part, `download_list` writes what is kept, `uid_index` finds the
scores again when the downloaded shards are filtered.
"""
