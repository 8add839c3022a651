"""The caption pass: tables of URLs and captions in; scores and the table of those that are worth a download out.

`parts` splits the tables, `table_filter` filters a part, `survivors` writes what is kept, `uid_index` finds the scores
again when the downloaded shards are filtered.
"""
