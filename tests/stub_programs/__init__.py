"""Stage programs without torch that end as they are told: `DIHT_PROGRAMS=stub_programs` puts them in place of the real ones."""
