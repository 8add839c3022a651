"""Text in images (T): detector, recogniser and the match with the caption."""
