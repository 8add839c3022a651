"""Stage programs without torch that end as `DIHT_STUB` says: `DIHT_PROGRAMS=stub_programs` replaces the real ones."""
