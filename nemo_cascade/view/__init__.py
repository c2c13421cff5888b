"""A page that shows run folders, live or afterwards: a small server of JSON over the files, and the page."""
