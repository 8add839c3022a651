"""Captions in, graphs out: language, a fast spaCy parser and the rules that correct it."""
